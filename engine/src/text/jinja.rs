//! What templates may call: the functions, filters and methods of Hugging Face's renderer, each bounded.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, filters};

use super::template::{Bounded, OUTPUT_BYTES_MAX};

type Result<T> = std::result::Result<T, JinjaError>;

/// Values that one call may visit, counted as often as they are held.
const VISITS_MAX: usize = 1 << 17;
/// Values that one step pays a visit of.
const VISITS_PER_FUEL: usize = 8;
/// Digits of a width in `format`.
const WIDTH_DIGITS_MAX: usize = 4;

/// Adds them.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", to_json);
    // These make text of values or compare them, by visits that fuel does not see.
    let visiting = [
        ("capitalize", Value::from_function(filters::capitalize)),
        ("e", Value::from_function(filters::escape)),
        ("escape", Value::from_function(filters::escape)),
        ("format", Value::from_function(filters::format)),
        ("join", Value::from_function(filters::join)),
        ("lines", Value::from_function(filters::lines)),
        ("lower", Value::from_function(filters::lower)),
        ("max", Value::from_function(filters::max)),
        ("min", Value::from_function(filters::min)),
        ("replace", Value::from_function(filters::replace)),
        ("sort", Value::from_function(filters::sort)),
        ("split", Value::from_function(filters::split)),
        ("string", Value::from_function(filters::string)),
        ("title", Value::from_function(filters::title)),
        ("trim", Value::from_function(filters::trim)),
        ("unique", Value::from_function(filters::unique)),
        ("upper", Value::from_function(filters::upper)),
    ];
    for (name, filter) in visiting {
        let weighed = move |state: &mut State<'_, '_>, args: Rest<Value>| {
            weigh(state, &args)?;
            filter.call(state, &args)
        };
        environment.add_filter(name, weighed);
    }
    // They show a template's inside to whoever develops it.
    environment.remove_filter("pprint");
    environment.remove_global("debug");
}

fn refused(problem: impl Into<String>) -> JinjaError {
    JinjaError::new(ErrorKind::InvalidOperation, problem.into())
}

/// Refuses values of which a call would make or visit too much. What holds a value twice counts it twice.
fn weigh(state: &State<'_, '_>, values: &[Value]) -> Result<()> {
    let (mut visits, mut bytes) = (0, 0);
    let mut open = values.to_vec();
    while let Some(value) = open.pop() {
        visits += 1;
        bytes += value.as_str().map_or(0, str::len);
        if matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
            let room = VISITS_MAX.saturating_sub(visits + open.len()) + 1;
            open.extend(value.try_iter()?.take(room));
            if value.kind() == ValueKind::Map {
                let held: Vec<Value> = value.try_iter()?.take(room).collect();
                open.extend(held.iter().filter_map(|key| value.get_item(key).ok()));
            }
        }
        if visits + open.len() > VISITS_MAX || bytes > OUTPUT_BYTES_MAX {
            return Err(refused("a value is too large: it holds others too many times"));
        }
    }
    state.consume_fuel((visits / VISITS_PER_FUEL) as u64)
}

/// Python's string, list and dict methods.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    weigh(state, std::slice::from_ref(value))?;
    weigh(state, args)?;
    let is_wide = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > WIDTH_DIGITS_MAX)
    };
    if name == "format" && value.as_str().is_some_and(is_wide) {
        return Err(refused("`format` would make too long a text"));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn raise_exception(state: &State<'_, '_>, message: &Value) -> Result<Value> {
    weigh(state, std::slice::from_ref(message))?;
    Err(refused(message.to_string()))
}

/// Today, as templates ask for it; in UTC, so that a prompt does not depend on where it is made.
fn strftime_now(state: &State<'_, '_>, format: &Value) -> Result<String> {
    weigh(state, std::slice::from_ref(format))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    strftime(format.as_str().ok_or_else(|| refused("`strftime_now` wants a text"))?, now)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// C's `strftime` of a time in seconds since 1970, in English.
fn strftime(format: &str, seconds: u64) -> Result<String> {
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let month_name = MONTHS.get(month as usize - 1).copied().unwrap_or_default();
    let day_name = DAYS.get((seconds / 86_400 % 7) as usize).copied().unwrap_or_default();
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let number = |value: u64| format!("{value:02}");
        let piece = match rest.next() {
            Some('Y') => year.to_string(),
            Some('y') => number(year % 100),
            Some('m') => number(month),
            Some('d') => number(day),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name.chars().take(3).collect(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name.chars().take(3).collect(),
            Some('H') => number(hour),
            Some('I') => number((hour + 11) % 12 + 1),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('M') => number(minute),
            Some('S') => number(second),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let got: String = other.into_iter().collect();
                return Err(refused(format!("`strftime_now` does not offer `%{got}`")));
            }
        };
        out.push_str(&piece);
    }
    Ok(out)
}

/// Year, month and day of a day since 1970, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from 1 March 0000, so that a leap day ends its year, in cycles of 400 years.
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (cycle * 400 + year + u64::from(month <= 2), month, day)
}

/// JSON as Hugging Face's renderer writes it: `", "` and `": "`, nothing escaped for HTML, no ASCII escapes.
#[allow(clippy::needless_pass_by_value, reason = "filters take their arguments so")]
fn to_json(state: &State<'_, '_>, value: &Value, kwargs: Kwargs) -> Result<Value> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    for (name, wanted) in [("ensure_ascii", false), ("sort_keys", false)] {
        if kwargs.get::<Option<bool>>(name)?.is_some_and(|got| got != wanted) {
            return Err(refused(format!("`tojson` offers `{name}` as {wanted} only")));
        }
    }
    kwargs.assert_all_used()?;
    let room = state.fuel_levels().map_or(OUTPUT_BYTES_MAX, |(_, left)| left as usize * 64);
    let mut out = Bounded::new(room.min(OUTPUT_BYTES_MAX));
    let written = match (indent, separators.as_deref()) {
        (None, None) => write_json(value, &mut out, Separated { item: ", ", key: ": " }),
        (None, Some([item, key])) => write_json(value, &mut out, Separated { item, key }),
        (Some(width), None) => {
            let spaces = " ".repeat(width.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            write_json(value, &mut out, pretty)
        }
        _ => return Err(refused("`tojson` wants two `separators`, or `indent`, not both")),
    };
    written.map_err(|e| {
        let problem = if e.is_io() { "the JSON is too long".to_owned() } else { e.to_string() };
        JinjaError::new(ErrorKind::BadSerialization, problem)
    })?;
    let text = out.into_text();
    text.map(Value::from_safe_string).ok_or_else(|| refused("`tojson` made what is not UTF-8"))
}

fn write_json(
    value: &Value,
    out: &mut Bounded,
    formatter: impl serde_json::ser::Formatter,
) -> serde_json::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(out, formatter);
    serde::Serialize::serialize(value, &mut serializer)
}

/// JSON on one line with these between items, and between a key and its value.
struct Separated<'a> {
    item: &'a str,
    key: &'a str,
}

impl serde_json::ser::Formatter for Separated<'_> {
    fn begin_array_value<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_key<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, want: &str) {
        let mut environment = Environment::new();
        add_to(&mut environment);
        let got = environment.render_str(&format!("{{{{ {expression} }}}}"), ());
        assert_eq!(got.unwrap_or_else(|e| e.to_string()), want, "{expression}");
    }

    #[test]
    fn json_is_written_as_the_reference_writes_it() {
        check(
            "{'a': [1, 'é<&\\'', none, true, 1.5]} | tojson",
            r#"{"a": [1, "é<&'", null, true, 1.5]}"#,
        );
        check("{'b': 1, 'a': {}} | tojson(ensure_ascii=false)", r#"{"b": 1, "a": {}}"#);
        check("{'a': [1, 2]} | tojson(separators=(',', ':'))", r#"{"a":[1,2]}"#);
        check("{'a': [1, []]} | tojson(indent=2)", "{\n  \"a\": [\n    1,\n    []\n  ]\n}");
    }

    #[test]
    fn python_methods_are_there() {
        check("' ab '.strip().upper() + 'a,b'.split(',')[-1]", "ABb");
        check("{'k': 1}.get('x', 'none') ~ {'k': 1}.items() | list | length", "none1");
        check("'-'.join(['a', 'b']) ~ 'x{}y'.format(7) ~ 'aXb'.replace('X', '')", "a-bx7yab");
        check("['b', 'a'] | sort | join(' ') | upper | trim | replace('A', 'c')", "c B");
    }

    #[test]
    fn dates_are_c_s() {
        let date = |format, seconds| strftime(format, seconds).unwrap();
        assert_eq!(date("%A %d %B %Y %H:%M:%S", 0), "Thursday 01 January 1970 00:00:00");
        assert_eq!(date("%a %e %b %y %I%p %%", 951_868_799), "Tue 29 Feb 00 11PM %");
        assert_eq!(date("%F %Z", 4_107_542_400), "2100-03-01 UTC");
        assert!(strftime("%Q", 0).is_err());
        check("strftime_now('%d %b %Y') | length", "11");
    }
}
