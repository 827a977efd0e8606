//! How many requests the balancer has refused, by reason: here, and what actix-http refuses before it is a request (`client`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::pages::Refusal;
use crate::observe::RefusalCounts;

/// Counted by all workers, and only where a request is refused anyway.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    bad_request: AtomicU64,
    client_timeout: AtomicU64,
    body_too_large: AtomicU64,
    target_too_long: AtomicU64,
    headers_too_large: AtomicU64,
    bad_gateway: AtomicU64,
    unavailable: AtomicU64,
    queue_full: AtomicU64,
    gateway_timeout: AtomicU64,
    other: AtomicU64,
    not_repeated: AtomicU64,
}

impl Refusals {
    /// Counts one.
    pub(crate) fn count(&self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::BadRequest => &self.bad_request,
            Refusal::ClientTimeout => &self.client_timeout,
            Refusal::BodyTooLarge => &self.body_too_large,
            Refusal::TargetTooLong => &self.target_too_long,
            Refusal::HeadersTooLarge => &self.headers_too_large,
            Refusal::BadGateway => &self.bad_gateway,
            Refusal::Unavailable => &self.unavailable,
            Refusal::QueueFull => &self.queue_full,
            Refusal::GatewayTimeout => &self.gateway_timeout,
            _ => &self.other,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a request that was not sent again because too many were: its refusal is counted beside.
    pub(crate) fn not_repeated(&self) {
        self.not_repeated.fetch_add(1, Relaxed);
    }

    /// All of them since the balancer started.
    pub(crate) fn report(&self) -> RefusalCounts {
        RefusalCounts {
            bad_request: self.bad_request.load(Relaxed),
            client_timeout: self.client_timeout.load(Relaxed),
            body_too_large: self.body_too_large.load(Relaxed),
            target_too_long: self.target_too_long.load(Relaxed),
            headers_too_large: self.headers_too_large.load(Relaxed),
            bad_gateway: self.bad_gateway.load(Relaxed),
            unavailable: self.unavailable.load(Relaxed),
            queue_full: self.queue_full.load(Relaxed),
            gateway_timeout: self.gateway_timeout.load(Relaxed),
            other: self.other.load(Relaxed),
            not_repeated: self.not_repeated.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let refusals = Refusals::default();
        let reasons = [
            Refusal::BadRequest,
            Refusal::ClientTimeout,
            Refusal::BodyTooLarge,
            Refusal::TargetTooLong,
            Refusal::HeadersTooLarge,
            Refusal::BadGateway,
            Refusal::Unavailable,
            Refusal::QueueFull,
            Refusal::GatewayTimeout,
            Refusal::NotImplemented,
        ];
        for (index, reason) in reasons.into_iter().enumerate() {
            (0..=index).for_each(|_| refusals.count(reason));
        }
        (0..11).for_each(|_| refusals.not_repeated());
        let counts = serde_json::to_value(refusals.report()).unwrap();
        let mut numbers: Vec<u64> = counts.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=11).collect::<Vec<u64>>());
    }
}
