// What naga's Metal code uses of Metal's standard library, for NVIDIA's runtime compiler: enough to count instructions and registers by.
#pragma once
typedef unsigned int uint;

namespace metal {
using uint = unsigned int;

template <class T> struct alignas(2 * sizeof(T)) Vec2 {
    T x, y;
    constexpr Vec2() : x(), y() {}
    constexpr explicit Vec2(T a) : x(a), y(a) {}
    constexpr Vec2(T a, T b) : x(a), y(b) {}
    template <class S> explicit Vec2(Vec2<S> v) : x(T(v.x)), y(T(v.y)) {}
    T &operator[](uint i) { return (&x)[i]; }
    T const &operator[](uint i) const { return (&x)[i]; }
};
template <class T> struct alignas(4 * sizeof(T)) Vec3 {
    T x, y, z;
    constexpr Vec3() : x(), y(), z() {}
    constexpr explicit Vec3(T a) : x(a), y(a), z(a) {}
    constexpr Vec3(T a, T b, T c) : x(a), y(b), z(c) {}
    T &operator[](uint i) { return (&x)[i]; }
    T const &operator[](uint i) const { return (&x)[i]; }
};
template <class T> struct alignas(4 * sizeof(T)) Vec4 {
    T x, y, z, w;
    constexpr Vec4() : x(), y(), z(), w() {}
    constexpr explicit Vec4(T a) : x(a), y(a), z(a), w(a) {}
    constexpr Vec4(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
    Vec4(Vec2<T> a, Vec2<T> b) : x(a.x), y(a.y), z(b.x), w(b.y) {}
    Vec4(Vec2<T> a, T b, T c) : x(a.x), y(a.y), z(b), w(c) {}
    template <class S> explicit Vec4(Vec4<S> v) : x(T(v.x)), y(T(v.y)), z(T(v.z)), w(T(v.w)) {}
    Vec2<T> xy() const { return Vec2<T>(x, y); }
    Vec2<T> zw() const { return Vec2<T>(z, w); }
    T &operator[](uint i) { return (&x)[i]; }
    T const &operator[](uint i) const { return (&x)[i]; }
};
using float2 = Vec2<float>; using float3 = Vec3<float>; using float4 = Vec4<float>;
using int2 = Vec2<int>; using int3 = Vec3<int>; using int4 = Vec4<int>;
using uint2 = Vec2<uint>; using uint3 = Vec3<uint>; using uint4 = Vec4<uint>;
using bool2 = Vec2<bool>; using bool3 = Vec3<bool>; using bool4 = Vec4<bool>;

template <class T> struct Same { using type = T; };
template <class T> using same = typename Same<T>::type; // takes no part in deduction

#define BINARY(op) \
    template <class T> Vec2<T> operator op(Vec2<T> a, Vec2<T> b) { return {T(a.x op b.x), T(a.y op b.y)}; } \
    template <class T> Vec4<T> operator op(Vec4<T> a, Vec4<T> b) { return {T(a.x op b.x), T(a.y op b.y), T(a.z op b.z), T(a.w op b.w)}; } \
    template <class T> Vec2<T> operator op(Vec2<T> a, same<T> b) { return a op Vec2<T>(b); } \
    template <class T> Vec2<T> operator op(same<T> a, Vec2<T> b) { return Vec2<T>(a) op b; } \
    template <class T> Vec4<T> operator op(Vec4<T> a, same<T> b) { return a op Vec4<T>(b); } \
    template <class T> Vec4<T> operator op(same<T> a, Vec4<T> b) { return Vec4<T>(a) op b; }
BINARY(+) BINARY(-) BINARY(*) BINARY(/) BINARY(&) BINARY(|) BINARY(^)
#define COMPARE(op) \
    template <class T> bool2 operator op(Vec2<T> a, Vec2<T> b) { return {a.x op b.x, a.y op b.y}; } \
    template <class T> bool4 operator op(Vec4<T> a, Vec4<T> b) { return {a.x op b.x, a.y op b.y, a.z op b.z, a.w op b.w}; }
COMPARE(<) COMPARE(<=) COMPARE(>) COMPARE(>=) COMPARE(==) COMPARE(!=)
#define SHIFT(op) \
    template <class T> Vec2<T> operator op(Vec2<T> a, uint2 b) { return {a.x op b.x, a.y op b.y}; } \
    template <class T> Vec4<T> operator op(Vec4<T> a, uint4 b) { return {a.x op b.x, a.y op b.y, a.z op b.z, a.w op b.w}; }
SHIFT(<<) SHIFT(>>)
#define UNARY(op) \
    template <class T> Vec2<T> operator op(Vec2<T> a) { return {T(op a.x), T(op a.y)}; } \
    template <class T> Vec4<T> operator op(Vec4<T> a) { return {T(op a.x), T(op a.y), T(op a.z), T(op a.w)}; }
UNARY(-) UNARY(!) UNARY(~)
template <class V> V &operator+=(V &a, V b) { return a = a + b; }
template <class V> V &operator-=(V &a, V b) { return a = a - b; }

#define BY_ELEMENT1(f) \
    template <class T> Vec2<T> f(Vec2<T> a) { return {f(a.x), f(a.y)}; } \
    template <class T> Vec4<T> f(Vec4<T> a) { return {f(a.x), f(a.y), f(a.z), f(a.w)}; }
#define BY_ELEMENT2(f) \
    template <class T> Vec2<T> f(Vec2<T> a, Vec2<T> b) { return {f(a.x, b.x), f(a.y, b.y)}; } \
    template <class T> Vec4<T> f(Vec4<T> a, Vec4<T> b) { return {f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w)}; }
inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline int max(int a, int b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline uint max(uint a, uint b) { return a > b ? a : b; }
inline uint min(uint a, uint b) { return a < b ? a : b; }
BY_ELEMENT2(max) BY_ELEMENT2(min)
template <class T> T clamp(T a, T low, T high) { return min(max(a, low), high); }
inline float abs(float a) { return fabsf(a); }
inline int abs(int a) { return a < 0 ? -a : a; }
inline float sqrt(float a) { return sqrtf(a); }
inline float sign(float a) { return a > 0.f ? 1.f : (a < 0.f ? -1.f : 0.f); }
inline float floor(float a) { return floorf(a); }
inline float rint(float a) { return rintf(a); }
inline float exp2(float a) { return exp2f(a); }
inline float exp(float a) { return __expf(a); }
inline float log2(float a) { return __log2f(a); }
inline float log(float a) { return __logf(a); }
inline float cos(float a) { return __cosf(a); }
inline uint clz(uint a) { return __clz(a); }
inline uint popcount(uint a) { return __popc(a); }
BY_ELEMENT1(abs) BY_ELEMENT1(sqrt) BY_ELEMENT1(sign) BY_ELEMENT1(floor) BY_ELEMENT1(rint)
inline float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
inline float2 fma(float2 a, float2 b, float2 c) { return {fma(a.x, b.x, c.x), fma(a.y, b.y, c.y)}; }
inline float4 fma(float4 a, float4 b, float4 c) { return {fma(a.x, b.x, c.x), fma(a.y, b.y, c.y), fma(a.z, b.z, c.z), fma(a.w, b.w, c.w)}; }
inline float dot(float2 a, float2 b) { return fma(a.y, b.y, a.x * b.x); }
inline float dot(float4 a, float4 b) { return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, a.x * b.x))); }
inline bool all(bool2 a) { return a.x && a.y; }
inline bool all(bool4 a) { return a.x && a.y && a.z && a.w; }
inline bool any(bool2 a) { return a.x || a.y; }
inline bool any(bool4 a) { return a.x || a.y || a.z || a.w; }
template <class T> T select(T a, T b, bool c) { return c ? b : a; }
template <class T> Vec2<T> select(Vec2<T> a, Vec2<T> b, bool2 c) { return {c.x ? b.x : a.x, c.y ? b.y : a.y}; }
template <class T> Vec4<T> select(Vec4<T> a, Vec4<T> b, bool4 c) {
    return {c.x ? b.x : a.x, c.y ? b.y : a.y, c.z ? b.z : a.z, c.w ? b.w : a.w};
}

template <class V, int C> struct Columns {
    V column[C];
    Columns() {}
    template <class... A> explicit Columns(A... a) : column{a...} {}
    V &operator[](uint i) { return column[i]; }
    V const &operator[](uint i) const { return column[i]; }
};
using float2x2 = Columns<float2, 2>; using float2x4 = Columns<float4, 2>;
using float4x2 = Columns<float2, 4>; using float4x4 = Columns<float4, 4>;
#define BY_COLUMN(op) \
    template <class V, int C> Columns<V, C> operator op(Columns<V, C> a, Columns<V, C> b) { \
        for (int i = 0; i < C; i++) a[i] = a[i] op b[i]; \
        return a; \
    }
BY_COLUMN(+) BY_COLUMN(-)
template <class V, int C> Columns<V, C> operator*(Columns<V, C> a, float b) {
    for (int i = 0; i < C; i++) a[i] = a[i] * b;
    return a;
}
template <class V, int C> Columns<V, C> operator*(float a, Columns<V, C> b) { return b * a; }
inline float2x4 transpose(float4x2 a) { return float2x4(float4(a[0].x, a[1].x, a[2].x, a[3].x), float4(a[0].y, a[1].y, a[2].y, a[3].y)); }
inline float4x2 transpose(float2x4 a) {
    return float4x2(float2(a[0].x, a[1].x), float2(a[0].y, a[1].y), float2(a[0].z, a[1].z), float2(a[0].w, a[1].w));
}
inline float4x4 transpose(float4x4 a) {
    return float4x4(
        float4(a[0].x, a[1].x, a[2].x, a[3].x), float4(a[0].y, a[1].y, a[2].y, a[3].y),
        float4(a[0].z, a[1].z, a[2].z, a[3].z), float4(a[0].w, a[1].w, a[2].w, a[3].w));
}

enum class mem_flags { mem_threadgroup, mem_device };
inline void threadgroup_barrier(mem_flags) { __syncthreads(); }
#define EXCHANGE(f, intrinsic) \
    template <class T> T f(T a, uint m) { return intrinsic(0xffffffffu, a, m); } \
    template <class T> Vec2<T> f(Vec2<T> a, uint m) { return {f(a.x, m), f(a.y, m)}; } \
    template <class T> Vec4<T> f(Vec4<T> a, uint m) { return {f(a.x, m), f(a.y, m), f(a.z, m), f(a.w, m)}; }
EXCHANGE(simd_shuffle_xor, __shfl_xor_sync) EXCHANGE(simd_shuffle, __shfl_sync) EXCHANGE(simd_broadcast, __shfl_sync)

typedef uint atomic_uint;
enum memory_order { memory_order_relaxed };
inline uint atomic_load_explicit(uint const *p, memory_order) { return *(volatile uint const *)p; }
inline void atomic_store_explicit(uint *p, uint v, memory_order) { *(volatile uint *)p = v; }
inline uint atomic_fetch_add_explicit(uint *p, uint v, memory_order) { return atomicAdd(p, v); }
inline uint atomic_fetch_and_explicit(uint *p, uint v, memory_order) { return atomicAnd(p, v); }
inline uint atomic_fetch_or_explicit(uint *p, uint v, memory_order) { return atomicOr(p, v); }
}

template <class T> struct Cast;
template <> struct Cast<float> {
    static float of(float a) { return a; }
    static float of(uint a) { return __uint_as_float(a); }
    static float of(int a) { return __int_as_float(a); }
};
template <> struct Cast<uint> {
    static uint of(float a) { return __float_as_uint(a); }
    static uint of(uint a) { return a; }
    static uint of(int a) { return a; }
};
template <> struct Cast<int> {
    static int of(float a) { return __float_as_int(a); }
    static int of(uint a) { return a; }
    static int of(int a) { return a; }
};
template <class T> struct Cast<metal::Vec2<T>> {
    template <class S> static metal::Vec2<T> of(metal::Vec2<S> v) { return {Cast<T>::of(v.x), Cast<T>::of(v.y)}; }
};
template <class T> struct Cast<metal::Vec4<T>> {
    template <class S> static metal::Vec4<T> of(metal::Vec4<S> v) { return {Cast<T>::of(v.x), Cast<T>::of(v.y), Cast<T>::of(v.z), Cast<T>::of(v.w)}; }
};
template <class T, class S> T as_type(S s) { return Cast<T>::of(s); }
