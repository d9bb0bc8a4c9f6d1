//! A panic in the SDK is a call that failed, and not the end of the sidecar.
//!
//! The SDK has places that a strange answer or environment can panic: an instance profile whose name is no
//! path, a key with a line end in it, a clock of the year 9999. Everything that calls it is polled in here.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread polls such a future now: then a panic has somebody who catches it.
pub fn is_contained() -> bool {
    INSIDE.get()
}

/// What a future comes to, or with what words it panicked. It is not polled again.
///
/// # Errors
/// The panic, in its own words.
pub async fn contained<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        let outer = INSIDE.replace(true);
        // What it leaves behind half done is dropped with it; the clients' locks may be poisoned, and then
        // the next call ends here, too.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        INSIDE.set(outer);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(panic) => Poll::Ready(Err(words(&*panic))),
        }
    })
    .await
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_outside_nothing_is_contained() {
        let fails = contained(async {
            tokio::task::yield_now().await;
            assert!(is_contained());
            panic!("out of {}", "order");
        });
        assert_eq!(fails.await, Err::<(), _>("out of order".to_owned()));
        assert!(!is_contained());
        assert_eq!(contained(async { 3 }).await, Ok(3));
    }
}
