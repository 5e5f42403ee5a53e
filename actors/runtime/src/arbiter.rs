//! Threads that profiles and `top` can tell apart.

use std::ffi::CStr;

use actix::Arbiter;

/// An arbiter whose thread has this name; the kernel keeps 15 bytes. actix calls all of them alike.
#[must_use]
pub fn named_arbiter(name: &'static CStr) -> Arbiter {
    let arbiter = Arbiter::new();
    // One that has ended already needs no name, and a name that is not taken harms nobody.
    arbiter.spawn_fn(move || {
        let _ = rustix::thread::set_name(name);
    });
    arbiter
}

#[cfg(test)]
mod tests {
    use actix::System;

    use super::*;

    #[test]
    fn the_kernel_knows_the_name() {
        System::new().block_on(async {
            let (send, told) = tokio::sync::oneshot::channel();
            let arbiter = named_arbiter(c"state");
            arbiter.spawn_fn(move || drop(send.send(rustix::thread::name())));
            let name = told.await.unwrap().unwrap();
            assert_eq!(name.as_c_str(), c"state");
            arbiter.stop();
        });
    }
}
