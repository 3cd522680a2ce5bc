//! Names, calls and objects: looked up in the allow-list, and what they would make is made here.

use super::machine::Machine;
use super::{Global, Span, Storage, Tensor, Value};

impl<'a> Machine<'a> {
    /// A name, from two lines of the pickle or two texts on the stack. It is looked up in a list and nowhere else.
    pub(super) fn global(&mut self, is_inline: bool) -> Result<(), String> {
        let (module, name) = if is_inline {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            let (Value::Text(module), Value::Text(name)) = (module, name) else {
                return Err("a name is made of two texts".into());
            };
            (self.slice(module), self.slice(name))
        };
        let Some(global) = Global::of(module, name) else {
            let shown = |text: &str| text.chars().take(60).collect::<String>();
            return Err(format!(
                "`{}.{}` is not among the names a checkpoint may use; it was not looked up",
                shown(module),
                shown(name)
            ));
        };
        self.push(Value::Global(global))
    }

    fn slice(&self, span: Span) -> &'a str {
        let bytes = self.bytes.get(span.start as usize..span.start as usize + span.len as usize);
        std::str::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().take(1024).position(|byte| *byte == b'\n');
        let len = len.ok_or("a name has no end")?;
        let span = self.span(len)?;
        self.at += 1;
        let bytes = self.bytes.get(span.start as usize..span.start as usize + len);
        std::str::from_utf8(bytes.unwrap_or_default()).map_err(|_| "a name is not UTF-8".to_owned())
    }

    fn tuple(&self, value: Value, what: &str) -> Result<&[Value], String> {
        match value {
            Value::Empty => Ok(&[]),
            Value::Tuple(tuple) => {
                Ok(self.containers.get(tuple as usize).map_or(&[], Vec::as_slice))
            }
            _ => Err(format!("{what} is no tuple")),
        }
    }

    /// A call: of the few that are allowed, what it would make is made here.
    pub(super) fn reduce(&mut self) -> Result<(), String> {
        let (arguments, called) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments, "what a name is called with")?;
        let value = match (called, arguments) {
            (Value::Global(Global::OrderedDict), []) => return self.make(Value::Dict, Vec::new()),
            (Value::Global(Global::RebuildTensor), arguments) => {
                let tensor = self.tensor(arguments)?;
                self.count(tensor.shape.len() + tensor.stride.len())?;
                self.tensors.push(tensor);
                Value::Tensor(self.tensors.len() as u32 - 1)
            }
            (
                Value::Global(Global::RebuildParameter),
                [tensor @ Value::Tensor(_), Value::Bool(_), Value::Dict(_)],
            ) => *tensor,
            (Value::Global(global), arguments) => {
                return Err(format!("{global:?} is called with {} arguments", arguments.len()));
            }
            _ => return Err("something is called that is no name".into()),
        };
        self.push(value)
    }

    /// `(storage, offset, shape, stride, requires_grad, hooks[, metadata])`.
    fn tensor(&self, arguments: &[Value]) -> Result<Tensor, String> {
        /// Far more than any matrix has. A tuple may be used again and again, so its copies must be small.
        const DIMENSIONS_MAX: usize = 8;
        let [
            Value::Storage(storage),
            Value::Int(offset),
            shape,
            stride,
            Value::Bool(_),
            Value::Dict(_),
            rest @ ..,
        ] = arguments
        else {
            return Err("a tensor is not made of a storage, an offset, a shape and strides".into());
        };
        if rest.len() > 1 {
            return Err(format!("a tensor has {} more arguments than it can", rest.len()));
        }
        let whole = |value: &Value| match value {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let sizes = |value: Value, what: &str| -> Result<Vec<u64>, String> {
            let sizes = self.tuple(value, what)?;
            if sizes.len() > DIMENSIONS_MAX {
                return Err(format!(
                    "{what} has {} numbers, at most {DIMENSIONS_MAX} are read",
                    sizes.len()
                ));
            }
            let sizes = sizes.iter().map(whole).collect::<Option<_>>();
            sizes.ok_or_else(|| format!("{what} has something else than whole numbers from 0"))
        };
        let offset =
            u64::try_from(*offset).map_err(|_| "a tensor's offset is below 0".to_owned())?;
        let (shape, stride) =
            (sizes(*shape, "a tensor's shape")?, sizes(*stride, "a tensor's stride")?);
        if shape.len() != stride.len() {
            return Err(format!(
                "a tensor of {} dimensions has {} strides",
                shape.len(),
                stride.len()
            ));
        }
        Ok(Tensor { storage: *storage, offset, shape, stride })
    }

    /// State given to an object: a settings class takes its dict, an ordered dict has `_metadata` that says nothing.
    pub(super) fn build(&mut self) -> Result<(), String> {
        let (state, object) = (self.pop()?, self.pop()?);
        match (object, state) {
            (Value::Dict(_), Value::Dict(_)) => self.push(object),
            (Value::Object(_), Value::Dict(dict)) => self.push(Value::Object(dict)),
            _ => Err("state is given to something that takes none".into()),
        }
    }

    /// `NEWOBJ`: an instance of a settings class, empty so far.
    pub(super) fn new_object(&mut self) -> Result<(), String> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments, "what an object is made with")?;
        match (class, arguments) {
            (Value::Global(Global::Settings), []) => self.make(Value::Object, Vec::new()),
            _ => Err("an object is made of something that is no settings class".into()),
        }
    }

    /// `("storage", type, key, location, count[, None])`.
    pub(super) fn persistent(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = match self.tuple(id, "a persistent id")? {
            [
                Value::Text(tag),
                Value::Global(Global::Storage(kind)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(count),
                rest @ ..,
            ] if self.slice(*tag) == "storage" => {
                if !matches!(rest, [] | [Value::None]) {
                    return Err("a storage is a view of another one; that is not supported".into());
                }
                let count =
                    u64::try_from(*count).map_err(|_| format!("a storage has {count} elements"))?;
                Storage { kind: *kind, key: *key, count }
            }
            _ => return Err("a persistent id does not describe a storage".into()),
        };
        self.storages.push(storage);
        self.push(Value::Storage(self.storages.len() as u32 - 1))
    }
}
