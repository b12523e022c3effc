//! How fast to read.

use std::fmt;
use std::str::FromStr;

/// How fast to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as possible, without giving way.
    Max,
    /// So many bytes a second.
    Bytes(u64),
}

impl FromStr for Rate {
    type Err = String;

    /// Reads `max`, or a number of bytes with K, M, G or T for powers of 1024.
    fn from_str(text: &str) -> Result<Rate, String> {
        if text == "max" {
            return Ok(Rate::Max);
        }
        let wrong =
            || format!("'{text}' is no rate: write a number of bytes a second, such as 500K, 20M or 1G, or max");
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text.strip_prefix(digits).unwrap_or_default().to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        match number.checked_mul(1 << shift) {
            Some(rate) if rate >= 65_536 => Ok(Rate::Bytes(rate)),
            _ => Err(format!("{} (at least 64K)", wrong())),
        }
    }
}

impl fmt::Display for Rate {
    /// As it may be written: the largest suffix that needs no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rate::Bytes(bytes) = *self else { return f.write_str("max") };
        for (shift, suffix) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if bytes >> shift << shift == bytes && bytes >> shift > 0 {
                return write!(f, "{}{suffix}", bytes >> shift);
            }
        }
        write!(f, "{bytes}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("65536".parse(), Ok(Rate::Bytes(65_536)));
        assert_eq!("500K".parse(), Ok(Rate::Bytes(500 << 10)));
        assert_eq!("20MiB".parse(), Ok(Rate::Bytes(20 << 20)));
        assert_eq!("1g".parse(), Ok(Rate::Bytes(1 << 30)));
        for wrong in ["", "K", "1X", "1.5M", "-1M", "1", "99999999999999999999", "18446744073709551615T", "é"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_can_be_read_again(bytes in 65_536u64..) {
            let rate = Rate::Bytes(bytes);
            proptest::prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }
    }
}
