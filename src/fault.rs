//! What went wrong with a device. wgpu goes on after an error and reads back zeros with every call returning Ok, so the first fault is kept, and every record
//! and every read reports it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use crate::gpu::lock;
use crate::{Error, Result};

/// The first error, which stays.
#[derive(Debug, Default)]
pub(crate) struct First(Mutex<Option<Error>>);

impl First {
    /// Keeps an error, if it is the first.
    pub(crate) fn keep(&self, error: Error) {
        lock(&self.0).get_or_insert(error);
    }

    /// Keeps that the device is lost, whatever was before.
    pub(crate) fn lost(&self, message: String) {
        *lock(&self.0) = Some(Error::DeviceLost { message });
    }
}

/// What went wrong with a device.
#[derive(Debug, Default)]
pub(crate) struct Fault {
    /// The device's handlers hold it too.
    pub(crate) first: Arc<First>,
    #[cfg(target_arch = "wasm32")]
    answers: web::Answers,
}

impl Fault {
    /// The first error, if there is one.
    pub(crate) fn check(&self) -> Result<()> {
        lock(&self.first.0).clone().map_or(Ok(()), Err)
    }

    /// Forgets an error. A lost device stays lost.
    pub(crate) fn clear(&self) {
        let mut first = lock(&self.first.0);
        if !matches!(*first, Some(Error::DeviceLost { .. })) {
            *first = None;
        }
    }

    /// Runs `calls`; an error that wgpu reports for them, or a panic inside wgpu (short of memory it unwraps what it should
    /// return), becomes the result. Error scopes are per thread and do not see a loss. On the web their answers come later: they are kept as faults then.
    pub(crate) fn guard<R>(&self, device: &wgpu::Device, calls: impl FnOnce() -> R) -> Result<R> {
        let scopes = [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal]
            .map(|filter| device.push_error_scope(filter));
        let result = catch_unwind(AssertUnwindSafe(calls));
        self.pop(scopes)?;
        result.map_err(|_| Error::Device { message: "wgpu panicked inside a call".into() })
    }

    /// The error that a scope holds, the innermost first.
    #[cfg(not(target_arch = "wasm32"))]
    fn pop(&self, [memory, validation, internal]: [wgpu::ErrorScopeGuard; 3]) -> Result<()> {
        for answer in [internal.pop(), validation.pop(), memory.pop()] {
            if let Some(error) = pollster::block_on(answer) {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// [`Fault::check`] once all that wgpu has to say of earlier calls is known.
    pub(crate) async fn settled(&self) -> Result<()> {
        #[cfg(target_arch = "wasm32")]
        self.answers.wait(|error| self.first.keep(error.into())).await;
        self.check()
    }
}

/// A page must not wait for the answer of an error scope, so that it is looked for at each later call, and waited for before a result is returned.
#[cfg(target_arch = "wasm32")]
mod web {
    use core::future::Future;
    use core::pin::Pin;
    use core::task::{Context, Poll, Waker};
    use std::sync::Mutex;

    use super::{Fault, lock};
    use crate::Result;

    type Answer = Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>;

    /// Those of scopes that are popped.
    #[derive(Default)]
    pub(super) struct Answers(Mutex<Vec<Answer>>);

    impl core::fmt::Debug for Answers {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            write!(f, "Answers({})", lock(&self.0).len())
        }
    }

    impl Answers {
        pub(super) async fn wait(&self, keep: impl Fn(wgpu::Error)) {
            let answers = core::mem::take(&mut *lock(&self.0));
            for answer in answers {
                answer.await.into_iter().for_each(&keep);
            }
        }
    }

    impl Fault {
        pub(super) fn pop(&self, [memory, validation, internal]: [wgpu::ErrorScopeGuard; 3]) -> Result<()> {
            let mut answers = lock(&self.answers.0);
            let popped: [Answer; 3] = [Box::pin(internal.pop()), Box::pin(validation.pop()), Box::pin(memory.pop())];
            answers.extend(popped);
            let mut context = Context::from_waker(Waker::noop());
            answers.retain_mut(|answer| match answer.as_mut().poll(&mut context) {
                Poll::Pending => true,
                Poll::Ready(error) => {
                    error.into_iter().for_each(|error| self.first.keep(error.into()));
                    false
                }
            });
            self.check()
        }
    }
}
