//! File descriptors: how many this process may have, and how many connections that is enough for.
//!
//! A server that accepts more than it has descriptors for can neither open a file nor a link, and tries again and again. One
//! that accepts fewer leaves clients in the kernel's queue until others have gone.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits;

/// Raises the soft limit of this process to the hard one: the soft one is 1,024 on most systems, for the sake of programs that
/// use select(2) (systemd.exec(5)). Gives what it is then, without end if there is none.
pub fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Refused only where the hard limit is above the system's own: then the soft one stays, and is what counts.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    limit()
}

/// Of at most `most` connections those for which there are descriptors, if each takes so many.
pub fn connections(most: usize, each: usize) -> usize {
    affordable(limit(), most, each)
}

fn limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| most.try_into().unwrap_or(usize::MAX))
}

fn affordable(limit: usize, most: usize, each: usize) -> usize {
    // What is kept back is half at most, so that a server with very few still serves.
    let kept_back = limits::DESCRIPTORS_KEPT_BACK.min(limit / 2);
    most.min((limit - kept_back) / each).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_links_and_files() {
        assert_eq!(affordable(usize::MAX, 10_000, 2), 10_000);
        assert_eq!(affordable(1_024, 10_000, 1), 1_024 - limits::DESCRIPTORS_KEPT_BACK);
        assert_eq!(affordable(256, 10_000, 2), 64);
        assert_eq!(affordable(1, 10_000, 2), 1, "it is for the operating system to refuse");
    }

    #[test]
    fn the_limit_is_as_high_as_it_may_be() {
        let raised = raise();
        assert_eq!(getrlimit(Resource::Nofile).maximum.map_or(usize::MAX, |most| most as usize), raised);
    }
}
