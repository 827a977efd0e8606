//! Until when a certificate is good, and what is said of it before it is too late.

use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::limits;

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// Seconds since 1970; what a certificate says has no leap seconds either.
    end: i64,
    /// The same for people, in UTC.
    date: String,
}

/// How a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// It is good for longer than [`limits::CERTIFICATE_WARNING`].
    Good,
    /// It is good for so many whole days.
    Ending(u64),
    /// No client believes it any more.
    Expired,
}

impl Term {
    /// # Errors
    /// This is no certificate.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| "its first certificate cannot be read".to_owned())?;
        let end = certificate.validity().not_after;
        Ok(Self { end: end.timestamp(), date: end.to_string() })
    }

    /// How it stands at a moment, in seconds since 1970.
    pub(crate) fn age(&self, now: i64) -> Age {
        let left = u64::try_from(self.end.saturating_sub(now));
        match left {
            Err(_) => Age::Expired,
            Ok(left) if left < limits::CERTIFICATE_WARNING.as_secs() => Age::Ending(left / (24 * 60 * 60)),
            Ok(_) => Age::Good,
        }
    }

    /// What an administrator is told at that moment, if anything.
    pub(crate) fn warning(&self, now: i64) -> Option<String> {
        match self.age(now) {
            Age::Good => None,
            Age::Ending(days) => Some(format!("the certificate ends in {days} days, on {}: renew it", self.date)),
            Age::Expired => Some(format!("the certificate expired on {}: clients refuse it, renew it", self.date)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 60 * 60;

    #[test]
    fn the_end_is_read_and_told_in_time() {
        let mut wanted = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        wanted.not_after = rcgen::date_time_ymd(2031, 5, 17);
        let made = wanted.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let term = Term::of(made.der()).unwrap();
        assert_eq!(term.end, 1_936_742_400);
        assert!(term.date.contains("2031"), "{}", term.date);
        for (left, age) in [
            (60 * DAY, Age::Good),
            (14 * DAY, Age::Good),
            (14 * DAY - 1, Age::Ending(13)),
            (1, Age::Ending(0)),
            (-1, Age::Expired),
        ] {
            assert_eq!(term.age(term.end - left), age, "{left}");
            assert_eq!(term.warning(term.end - left).is_some(), age != Age::Good);
        }
        assert!(term.warning(term.end - 3 * DAY).unwrap().contains("in 3 days, on "));
    }

    #[test]
    fn what_is_no_certificate_is_no_panic() {
        for bytes in [&b""[..], b"\x30", b"\x30\x82\xff\xff", &[0xff; 200]] {
            assert!(Term::of(&CertificateDer::from(bytes.to_vec())).is_err());
        }
    }
}
