//! Times as the access log writes them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Writes the time of day in UTC as RFC 3339 has it, to the millisecond. A second is worked out once.
#[derive(Debug, Default)]
pub struct Clock {
    second: u64,
    text: [u8; 19],
}

impl Clock {
    pub fn write(&mut self, line: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.write_at(now.as_secs(), now.subsec_millis(), line);
    }

    fn write_at(&mut self, second: u64, millis: u32, line: &mut Vec<u8>) {
        if self.second != second {
            self.second = second;
            let (year, month, day) = date(second / 86_400);
            let rest = second % 86_400;
            let text =
                format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
            self.text.copy_from_slice(&text.as_bytes()[..19]);
        }
        line.extend_from_slice(&self.text);
        let digit = |number: u32| b'0' + (number % 10) as u8;
        line.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
    }
}

/// The date of a day since 1970, by years that begin in March, so that the odd day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339_has_it() {
        for (second, text) in [
            (1, "1970-01-01T00:00:01.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_709_164_799, "2024-02-28T23:59:59.007Z"),
            (1_795_206_806, "2026-11-20T20:33:26.007Z"),
            (4_102_444_799, "2099-12-31T23:59:59.007Z"),
        ] {
            let mut line = Vec::new();
            Clock::default().write_at(second, 7, &mut line);
            assert_eq!(String::from_utf8(line).unwrap(), text);
        }
    }
}
