//! Times of interactions. They are only used to order interactions, so every form that orders them correctly will do.

use std::cmp::Ordering;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A time as whole seconds, or whatever unit the file has, and a rest of the same sign. Numbers of 19 digits and
/// fractions both keep their order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Time {
    pub whole: i64,
    rest: f64,
}

/// The form of a file's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Number,
    Date,
}

impl Time {
    /// A time before all others.
    pub const EARLIEST: Time = Time { whole: i64::MIN, rest: f64::NEG_INFINITY };

    pub const fn of(whole: i64) -> Time {
        Time { whole, rest: 0.0 }
    }

    /// Parses a number, or a date or date and time of ISO 8601. Without an offset it is in UTC.
    pub fn parse(text: &str) -> Option<(Form, Time)> {
        number(text).map(|time| (Form::Number, time)).or_else(|| date(text).map(|time| (Form::Date, time)))
    }
}

fn number(text: &str) -> Option<Time> {
    if let Ok(whole) = text.parse() {
        return Some(Time::of(whole));
    }
    let value = text.parse().ok().filter(|value: &f64| value.is_finite())?;
    let whole = value.trunc() as i64;
    Some(Time { whole, rest: value - whole as f64 + 0.0 }) // -0 would be ordered before 0
}

fn date(text: &str) -> Option<Time> {
    let in_utc = || TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok();
    let time = text.parse::<Timestamp>().ok().or_else(in_utc)?;
    Some(Time { whole: time.as_second(), rest: time.subsec_nanosecond().into() })
}

impl Eq for Time {}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> Ordering {
        self.whole.cmp(&other.whole).then(self.rest.total_cmp(&other.rest))
    }
}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(form: Form, texts: &[&str]) -> Vec<Time> {
        let parsed = texts.iter().map(|text| Time::parse(text).unwrap_or_else(|| panic!("{text}")));
        parsed.map(|(found, time)| (found == form).then_some(time).unwrap()).collect()
    }

    #[test]
    fn numbers_keep_their_order() {
        let ascending = [
            "-1e300",
            "-1.5",
            "-1",
            "-0.5",
            "-1e-20",
            "0",
            "1e-20",
            "0.25",
            "0.5",
            "1",
            "9007199254740991",
            "9007199254740992",
            "9007199254740993",
            "1537438272123456788",
            "1537438272123456789",
            "1e30",
            "1e300",
        ];
        let times = all(Form::Number, &ascending);
        assert!(times.iter().all(|time| *time > Time::EARLIEST));
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
        let zeros = all(Form::Number, &["0", "-0", "0.0", "-0.0"]);
        assert!(zeros.iter().all(|zero| zero.cmp(&zeros[0]).is_eq()), "{zeros:?}");
        assert_eq!(all(Form::Number, &["3", "3.0", "3e0"]), [Time::of(3); 3]);
    }

    #[test]
    fn dates_keep_their_order() {
        let ascending = [
            "0001-01-01",
            "1969-12-31T23:59:59.25",
            "1969-12-31T23:59:59.5",
            "1970-01-01",
            "2018-09-20",
            "2018-09-20T10:11",
            "2018-09-20T10:11:12Z",
            "2018-09-20 10:11:12.5",
            "2018-09-20T12:11:13+02:00",
        ];
        let times = all(Form::Date, &ascending);
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
        assert_eq!(times[3], Time::of(0));
        for text in ["noon", "", "nan", "inf", "2018-13-01", "2018-9-2", "09/20/2018", "2018-09-20T"] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
    }
}
