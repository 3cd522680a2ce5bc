//! Chat templates: the checkpoint's own Jinja under limits.
//!
//! A template is code from the checkpoint. It is compiled and run on a thread of its own whose stack holds the deepest
//! value its fuel can build, its work and output are bounded, and it has a deadline.

use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error as JinjaError, ErrorKind, UndefinedBehavior, context};

use super::blocks::without_blocks_of_its_own;
use super::runner::Runner;
use super::{Message, Role, jinja};
use crate::error::{Error, Result};

/// Steps of a template, on top of those that grow with the conversation. Released templates take some dozens a message.
const FUEL: u64 = 1_000_000;
/// A step pays for 64 bytes; a template copies and reads its conversation some times.
const BYTES_PER_FUEL: u64 = 8;
/// The longest template. Expressions may nest as deep as a template is long.
const SOURCE_BYTES_MAX: usize = 256 << 10;
/// The longest prompt rendered.
pub(super) const OUTPUT_BYTES_MAX: usize = 32 << 20;
/// Fuel alone ends a template within a second or two.
const DEADLINE: Duration = Duration::from_secs(10);
/// The template's name in its error messages.
const NAME: &str = "chat_template";

/// A checkpoint's chat template.
pub(super) struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    runner: Runner,
}

fn error(problem: impl Into<String>) -> Error {
    Error::Template { problem: problem.into() }
}

impl Template {
    /// Compiles a template with the settings and functions that Hugging Face's renderer gives it.
    pub(super) fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        if source.len() > SOURCE_BYTES_MAX {
            let got = source.len();
            return Err(error(format!("it has {got} bytes, wanted at most {SOURCE_BYTES_MAX}")));
        }
        let runner = Runner::new(DEADLINE);
        let source = source.to_owned();
        let environment = runner.run(move || compile(source))?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned(), runner })
    }

    /// Renders a conversation up to where the assistant begins.
    pub(super) fn render(&self, messages: Vec<Message>) -> Result<String> {
        let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + bytes as u64 / BYTES_PER_FUEL));
        let (bos, eos) = (self.bos.clone(), self.eos.clone());
        self.runner.run(move || render(&environment, &messages, &bos, &eos))
    }
}

fn compile(source: String) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    environment.set_syntax(hugging_face_syntax()?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    jinja::add_to(&mut environment);
    environment
        .add_template_owned(NAME, without_blocks_of_its_own(&source))
        .map_err(|e| error(described(&e)))?;
    Ok(environment)
}

fn render(
    environment: &Environment<'_>,
    messages: &[Message],
    bos: &str,
    eos: &str,
) -> Result<String> {
    let messages: Vec<Value> = messages
        .iter()
        .map(|message| context! { role => role_name(message.role), content => message.content.as_str() })
        .collect();
    let template = environment.get_template(NAME).map_err(|e| error(described(&e)))?;
    let variables = context! {
        messages,
        bos_token => bos,
        eos_token => eos,
        add_generation_prompt => true,
    };
    let mut out = Bounded::new(OUTPUT_BYTES_MAX);
    template.render_captured_to(variables, &mut out).map_err(|e| error(described(&e)))?;
    out.into_text().ok_or_else(|| error("the template's output is not UTF-8"))
}

/// Blocks leave no white space behind, as Hugging Face's renderer is set.
fn hugging_face_syntax() -> Result<SyntaxConfig> {
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    syntax.build().map_err(|e| error(described(&e)))
}

/// A buffer that refuses to grow beyond its bound.
pub(super) struct Bounded {
    bytes: Vec<u8>,
    max: usize,
}

impl Bounded {
    pub(super) fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), max }
    }

    /// `None` when it is not UTF-8.
    pub(super) fn into_text(self) -> Option<String> {
        String::from_utf8(self.bytes).ok()
    }
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.max {
            return Err(std::io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(bytes);
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
        ErrorKind::OutOfFuel => "it took more steps than a template may".to_owned(),
        ErrorKind::WriteFailure => format!("its output is over {OUTPUT_BYTES_MAX} bytes"),
        kind => error.detail().map_or_else(|| kind.to_string(), ToOwned::to_owned),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, content: &str) -> Result<String> {
        let template = Template::new(source, "<s>", "</s>")?;
        template.render(vec![Message { role: Role::User, content: content.into() }])
    }

    #[track_caller]
    fn check(source: &str, want: &str) {
        assert_eq!(render(source, " hello ").unwrap(), want, "{source}");
    }

    /// The template is refused with these words, and the process lives.
    #[track_caller]
    fn refused(source: &str, want: &str) {
        let error = render(source, "").unwrap_err().to_string();
        assert!(error.contains(want), "{error}\n{source:.200}");
    }

    #[test]
    fn templates_find_what_the_reference_gives_them() {
        check("{{ bos_token }}{{ messages[-1]['content'] | trim }}{{ eos_token }}", "<s>hello</s>");
        check("{{ messages[0].role }}{{ messages[0].tool_calls is defined }}", "userFalse");
        check("{{ tools is defined }}{{ add_generation_prompt }}", "FalseTrue");
        check("{% for m in messages %}\n  {% if true %}\nx\n  {% endif %}\n{% endfor %}\n", "x\n");
        check(
            "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "1",
        );
    }

    #[test]
    fn an_exception_is_the_templates_own_sentence() {
        refused("{{ raise_exception('roles must alternate') }}", "roles must alternate");
    }

    #[test]
    fn a_broken_template_names_its_line() {
        refused("{{ a }}\n{% if %}", "line 2");
    }

    #[test]
    fn endless_work_runs_out_of_fuel() {
        let loops =
            "{% for i in range(10000) %}{% for j in range(10000) %}{{ i }}{% endfor %}{% endfor %}";
        refused(loops, "steps");
        refused("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion");
        let double = "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = DOUBLED %}{% endfor %}";
        for doubled in ["ns.s + ns.s", "ns.s ~ ns.s", "ns.s * 2", "ns.s.replace('a', 'aa')"] {
            refused(&double.replace("DOUBLED", doubled), "steps");
        }
        refused("{{ ('a' * 2000000000) | length }}", "steps");
    }

    #[test]
    fn fuel_grows_with_the_conversation() {
        let long = "word ".repeat(4 << 20);
        let read_often =
            "{% if '</think>' in messages[0].content %}{% endif %}{{ messages[0].content | trim }}";
        assert_eq!(render(read_often, &long).unwrap().len(), long.len() - 1);
    }

    #[test]
    fn deep_values_and_expressions_do_not_overflow_the_stack() {
        let nest = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
        for (shown, bytes) in [("ns.x", 200_000), ("ns.x | tojson", 200_000), ("ns.x | length", 1)]
        {
            let shown = render(&format!("{nest}{{{{ {shown} }}}}"), "").unwrap();
            assert_eq!(shown.len(), bytes);
        }
        refused(&format!("{nest}{{{{ ns.x | tojson(indent=16) }}}}"), "too long");
        let endless = nest
            .replace("99999", "99999) %}{% for j in range(99999")
            .replace("{% endfor %}", "{% endfor %}{% endfor %}");
        refused(&endless, "steps");
        // Chains that the parser takes as nesting, each as long as a template may be.
        for (before, link, after) in
            [("", "not ", "1"), ("1", "+1", ""), ("x", ".a", ""), ("''", "|e", ""), ("", "-", "1")]
        {
            let chain = link.repeat((SOURCE_BYTES_MAX - 16) / link.len());
            let _ = render(&format!("{{{{ {before}{chain}{after} }}}}"), "");
        }
        refused(&format!("{{{{ {}1{} }}}}", "(".repeat(9999), ")".repeat(9999)), "recursion");
        refused(&"x".repeat(SOURCE_BYTES_MAX + 1), "at most");
    }

    /// Values that hold one value twice, sixty deep.
    const SHARED: &str = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}\
        {% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}";

    #[test]
    fn values_that_are_shared_many_times_are_refused() {
        for shown in [
            "ns.x | tojson",
            "ns.x | tojson(indent=2)",
            "ns.x | string",
            "[ns.x] | join",
            "ns.x | trim",
            "ns.x | replace(1, 2)",
            "ns.x | e",
            "ns.x | lower",
            "','.join([ns.x])",
            "'{}'.format(ns.x)",
            "[ns.x].count(ns.y)",
            "[ns.x, ns.y] | unique | length",
            "[ns.x, ns.y] | sort",
            "[ns.x, ns.y] | min",
            "raise_exception(ns.x)",
            "strftime_now(ns.x)",
            "'%s' | format(ns.x)",
        ] {
            refused(&format!("{SHARED}{{{{ {shown} }}}}"), "too l");
        }
        refused(&format!("{SHARED}{{{{ ns.x }}}}"), "output is over");
        let long = "{% set ns = namespace(s='a') %}{% for i in range(20) %}{% set ns.s = ns.s + ns.s %}{% endfor %}";
        for shown in
            ["([ns.s] * 1000) | join", "','.join([ns.s] * 1000)", "([ns.s] * 1000) | tojson"]
        {
            refused(&format!("{long}{{{{ {shown} }}}}"), "too l");
        }
        refused("{{ '{:1000000000}'.format('x') }}", "too l");
    }
}
