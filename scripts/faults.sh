#!/usr/bin/env bash
# Lets Vulkan calls fail, one at a time, under a program that embeds wgloss (tests/outside), and looks at what it says: right numbers or an error,
# and a new device that works afterwards. Never a panic, a wrong number or a hang. Linux with lavapipe on x86-64; minutes.
#
#   scripts/faults.sh           the first calls of each kind, then ever fewer
#   scripts/faults.sh all       each call
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$PWD/target/vkfault
mkdir -p "$folder"
rustc --edition 2021 -O -C panic=abort --crate-type cdylib --crate-name vkfault -o "$folder/libvkfault.so" tests/vkfault/layer.rs
cp tests/vkfault/VkLayer_wgloss_fault.json "$folder/"
cargo build --workspace --profile tests --features wgloss/ndarray
program=$PWD/target/tests/outside
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() { # RULE
    local status=0
    VK_INSTANCE_LAYERS=VK_LAYER_WGLOSS_fault VK_LAYER_PATH=$folder VKFAULT=$1 VKFAULT_LOG=1 \
        timeout 120 "$program" >"$log" 2>&1 || status=$?
    return "$status"
}

run "" || { cat "$log"; echo "It fails by itself."; exit 1; } # compiles the kernels, too

# What each call may answer with: -1 host memory, -2 device memory, -3 initialisation, -4 device lost, -5 map failed.
calls=(
    vkAllocateMemory:-2 vkAllocateMemory:-1 vkCreateBuffer:-2 vkBindBufferMemory:-2 vkMapMemory:-5
    vkCreateShaderModule:-1 vkCreateDescriptorSetLayout:-1 vkCreatePipelineLayout:-1 vkCreateComputePipelines:-2
    vkCreateDescriptorPool:-2 vkAllocateDescriptorSets:-2 vkCreateCommandPool:-1 vkAllocateCommandBuffers:-2
    vkBeginCommandBuffer:-2 vkEndCommandBuffer:-2 vkCreateFence:-1 vkCreateSemaphore:-1 vkResetFences:-2
    vkQueueSubmit:-4 vkQueueSubmit:-2 vkWaitSemaphores:-4 vkWaitForFences:-4 vkGetFenceStatus:-4 vkGetSemaphoreCounterValue:-4
)
bad=0 runs=0 errors=0
for call in "${calls[@]}"; do
    name=${call%%:*} code=${call##*:} first=0 seen=0 told=0
    while :; do
        status=0
        run "$name:$first:$code:1" || status=$?
        grep -q '^vkfault: .* call' "$log" || break # fewer calls than that
        runs=$((runs + 1)) seen=$((seen + 1))
        case $status in
            0) ;;
            3) errors=$((errors + 1)) told=$((told + 1)) ;;
            *)
                bad=$((bad + 1))
                echo "$name:$first:$code: exit code $status"
                tail -n 5 "$log" | sed 's/^/    /'
                ;;
        esac
        if [[ ${1:-} == all ]]; then first=$((first + 1)); else first=$((first < 4 ? first + 1 : first * 3 / 2)); fi
    done
    printf '%-32s %4d failed calls, %4d told as errors\n' "$name $code" "$seen" "$told"
done
echo "$runs failed calls: $errors told as errors, $((runs - errors - bad)) without effect on the numbers, $bad bad"
exit $((bad > 0))
