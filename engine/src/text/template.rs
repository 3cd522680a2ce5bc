//! Chat templates: the checkpoint's own Jinja under limits, else plain turns.
//!
//! A template is code from the checkpoint. It runs with fuel, on a thread of its own whose stack holds the deepest
//! value the fuel can build, and its output is bounded.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, UndefinedBehavior, context};

use super::{Message, Role};
use crate::error::{Error, Result};

/// Steps of a template. Released templates take some hundred a message.
const FUEL: u64 = 1_000_000;
/// Stack of the thread that renders: nested values are formatted and dropped by recursion, and each level of nesting
/// costs fuel to build. Only pages that are touched take memory.
const STACK_BYTES: usize = 1 << 30;
/// The longest prompt rendered.
const OUTPUT_BYTES_MAX: usize = 64 << 20;
/// The template's name in its error messages.
const NAME: &str = "chat_template";

/// A checkpoint's chat template.
pub(super) struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

fn error(problem: impl Into<String>) -> Error {
    Error::Template { problem: problem.into() }
}

impl Template {
    /// Compiles a template with the settings and functions that Hugging Face's renderer gives it.
    pub(super) fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_syntax(hugging_face_syntax()?);
        environment.set_fuel(Some(FUEL));
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_unknown_method_callback(method);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|e| error(described(&e)))?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Renders a conversation up to where the assistant begins.
    pub(super) fn render(&self, messages: &[Message]) -> Result<String> {
        std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().name("hadal-template".into()).stack_size(STACK_BYTES);
            let running = thread
                .spawn_scoped(scope, || self.render_here(messages))
                .map_err(|e| error(format!("no thread to render on: {e}")))?;
            running.join().unwrap_or_else(|_| Err(error("the template made the renderer fail")))
        })
    }

    fn render_here(&self, messages: &[Message]) -> Result<String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => role_name(message.role), content => message.content.as_str() })
            .collect();
        let template = self.environment.get_template(NAME).map_err(|e| error(described(&e)))?;
        let variables = context! {
            messages,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            add_generation_prompt => true,
        };
        let mut out = Bounded(Vec::new());
        template.render_captured_to(variables, &mut out).map_err(|e| error(described(&e)))?;
        String::from_utf8(out.0).map_err(|_| error("the template's output is not UTF-8"))
    }
}

/// Blocks leave no white space behind, as Hugging Face's renderer is set.
fn hugging_face_syntax() -> Result<SyntaxConfig> {
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    syntax.build().map_err(|e| error(described(&e)))
}

/// A buffer that refuses to grow beyond the bound.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(std::io::Error::other(format!(
                "the output is over {OUTPUT_BYTES_MAX} bytes"
            )));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

/// A template's error as a sentence, with its line.
fn described(error: &JinjaError) -> String {
    let what = match error.kind() {
        ErrorKind::OutOfFuel => format!("it took more than {FUEL} steps"),
        kind => error.detail().map_or_else(|| kind.to_string(), ToOwned::to_owned),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

/// Python's string, list and dict methods. Those that copy text many times are bounded by the output they may make.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> std::result::Result<Value, JinjaError> {
    if let ("replace", Some(text), [from, to, ..]) = (name, value.as_str(), args)
        && let (Some(from), Some(to)) = (from.as_str(), to.as_str())
    {
        let times = if from.is_empty() { text.len() + 1 } else { text.len() / from.len() };
        if times.saturating_mul(to.len()) > OUTPUT_BYTES_MAX {
            return Err(JinjaError::new(
                ErrorKind::InvalidOperation,
                "`replace` would make too long a text",
            ));
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn raise_exception(message: String) -> std::result::Result<Value, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, message))
}

/// Today, as templates ask for it. Time is data in this crate: the date of a prompt is not, so it is refused.
fn strftime_now(_format: String) -> std::result::Result<Value, JinjaError> {
    let problem = "`strftime_now` is not offered: a prompt that changes with the day is no longer reproducible";
    Err(JinjaError::new(ErrorKind::InvalidOperation, problem))
}

/// JSON as Hugging Face's renderer writes it: `", "` and `": "`, nothing escaped for HTML, no ASCII escapes.
#[allow(clippy::needless_pass_by_value, reason = "the shape that filters have")]
fn to_json(value: &Value, kwargs: Kwargs) -> std::result::Result<Value, JinjaError> {
    let wrong = |e: serde_json::Error| JinjaError::new(ErrorKind::BadSerialization, e.to_string());
    let indent: Option<usize> = kwargs.get("indent")?;
    // `ensure_ascii` and `separators` are accepted as Python accepts them; their defaults here are the renderer's.
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let mut out = Vec::new();
    if let Some(width) = indent {
        let spaces = " ".repeat(width.min(16));
        let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
        let mut writer = serde_json::Serializer::with_formatter(&mut out, formatter);
        serde::Serialize::serialize(value, &mut writer).map_err(wrong)?;
    } else {
        let mut writer = serde_json::Serializer::with_formatter(&mut out, Spaced);
        serde::Serialize::serialize(value, &mut writer).map_err(wrong)?;
    }
    String::from_utf8(out)
        .map(Value::from_safe_string)
        .map_err(|_| JinjaError::new(ErrorKind::BadSerialization, "not UTF-8"))
}

/// Python's separators.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: &str) -> Vec<Message> {
        vec![Message { role: Role::User, content: content.into() }]
    }

    fn render(source: &str, content: &str) -> Result<String> {
        Template::new(source, "<s>", "</s>")?.render(&user(content))
    }

    #[test]
    fn python_methods_and_json_as_the_reference_writes_it() {
        let split = "{{ bos_token }}{{ messages[-1]['content'].split('x')[-1] | trim }}";
        assert_eq!(render(split, "axb ").unwrap(), "<s>b");
        let json = "{{ {'a': [1, 'é<', none]} | tojson }}";
        assert_eq!(render(json, "").unwrap(), r#"{"a": [1, "é<", null]}"#);
    }

    #[test]
    fn an_exception_is_the_templates_own_sentence() {
        let error =
            render("{{ raise_exception('roles must alternate') }}", "").unwrap_err().to_string();
        assert!(error.contains("roles must alternate"), "{error}");
    }

    #[test]
    fn an_endless_loop_runs_out_of_fuel() {
        let error = render(
            "{% for i in range(10000) %}{% for j in range(10000) %}{{ i }}{% endfor %}{% endfor %}",
            "",
        );
        assert!(error.unwrap_err().to_string().contains("steps"));
    }

    #[test]
    fn a_deeply_nested_value_does_not_overflow_the_stack() {
        let nest = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}";
        // An answer or an error, and the process lives.
        let _ = render(nest, "");
    }

    #[test]
    fn a_broken_template_names_its_line() {
        let error = Template::new("{{ a }}\n{% if %}", "", "").err().unwrap().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
