//! The machine: one instruction after the other, each checked, none executed.

use std::collections::HashMap;

use super::{
    CONTAINERS_FREE, CONTAINERS_PER_8_BYTES, ITEMS_FREE, ITEMS_MAX, ITEMS_PER_8_BYTES,
    PICKLE_BYTES_MAX, Pickle, Span, Storage, Tensor, Value, WAITING_MAX,
};

/// Reads the pickle that `bytes` begins with.
///
/// # Errors
/// What was found, where, and what was wanted; a name outside the allow-list is in it.
pub(in super::super) fn read(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    let bytes = bytes.get(..PICKLE_BYTES_MAX).unwrap_or(bytes);
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Memo::default(),
        n_item: 0,
        containers: Vec::new(),
        storages: Vec::new(),
        tensors: Vec::new(),
    };
    loop {
        let at = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(value)) => {
                let Machine { at: len, containers, storages, tensors, .. } = machine;
                return Ok(Pickle { bytes, value, len, containers, storages, tensors });
            }
            Err(problem) => return Err(format!("pickle, byte {at}: {problem}")),
        }
    }
}

pub(super) struct Machine<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    stack: Vec<Value>,
    /// Lengths the stack had at each mark.
    marks: Vec<usize>,
    memo: Memo,
    n_item: usize,
    pub(super) containers: Vec<Vec<Value>>,
    pub(super) storages: Vec<Storage>,
    pub(super) tensors: Vec<Tensor>,
}

/// Values by number. Writers count from 0; a pickle may choose any number, so they do not size a table.
#[derive(Default)]
struct Memo {
    counted: Vec<Value>,
    chosen: HashMap<u32, Value>,
}

impl Memo {
    fn len(&self) -> usize {
        self.counted.len() + self.chosen.len()
    }

    fn get(&self, number: u32) -> Option<Value> {
        self.counted.get(number as usize).or_else(|| self.chosen.get(&number)).copied()
    }

    fn insert(&mut self, number: u32, value: Value) {
        let len = self.counted.len();
        match self.counted.get_mut(number as usize) {
            Some(place) => *place = value,
            None if number as usize == len && !self.chosen.contains_key(&number) => {
                self.counted.push(value);
            }
            None => drop(self.chosen.insert(number, value)),
        }
    }
}

/// Either goes on, or the value that `STOP` leaves.
type Stepped = Result<Option<Value>, String>;

impl Machine<'_> {
    fn step(&mut self) -> Stepped {
        let [opcode] = self.fixed::<1>()?;
        match opcode {
            b'.' => return self.stop().map(Some),
            0x80 => self.protocol()?,
            0x95 => {
                self.fixed::<8>()?;
            }
            b'(' => self.mark()?,
            b'0' => self.discard()?,
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' => self.whole::<1>()?,
            b'M' => self.whole::<2>()?,
            b'J' => {
                let value = i32::from_le_bytes(self.fixed::<4>()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => self.long()?,
            b'G' => {
                let value = f64::from_be_bytes(self.fixed::<8>()?);
                self.push(Value::Float(value))?;
            }
            b'X' => {
                let len = u32::from_le_bytes(self.fixed::<4>()?);
                self.text(len as usize)?;
            }
            0x8c => {
                let [len] = self.fixed::<1>()?;
                self.text(len.into())?;
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo_step(opcode)?,
            b'c' | 0x93 => self.global(opcode == b'c')?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            0x81 => self.new_object()?,
            b'Q' => self.persistent()?,
            _ => self.container_step(opcode)?,
        }
        Ok(None)
    }

    /// Instructions that make or fill tuples, lists and dicts.
    fn container_step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            b')' => self.push(Value::Empty),
            b']' => self.make(Value::List, Vec::new()),
            b'}' => self.make(Value::Dict, Vec::new()),
            b't' => {
                let items = self.since_mark()?;
                if items.is_empty() {
                    self.push(Value::Empty)
                } else {
                    self.make(Value::Tuple, items)
                }
            }
            b'l' => {
                let items = self.since_mark()?;
                self.make(Value::List, items)
            }
            b'd' => {
                let items = self.pairs()?;
                self.make(Value::Dict, items)
            }
            0x85..=0x87 => {
                let items = self.last(usize::from(opcode - 0x84))?;
                self.make(Value::Tuple, items)
            }
            b'a' => {
                let items = self.last(1)?;
                self.extend_list(items)
            }
            b'e' => {
                let items = self.since_mark()?;
                self.extend_list(items)
            }
            b's' => {
                let items = self.last(2)?;
                self.extend_dict(items)
            }
            b'u' => {
                let items = self.pairs()?;
                self.extend_dict(items)
            }
            other => Err(format!("instruction 0x{other:02x} is none that a checkpoint needs")),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let chunk = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        let chunk = chunk.ok_or("the pickle ends in the middle: the file is truncated")?;
        self.at += N;
        Ok(*chunk)
    }

    pub(super) fn span(&mut self, len: usize) -> Result<Span, String> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| {
            let left = self.bytes.len() - self.at;
            format!("{len} bytes are announced, {left} follow")
        })?;
        let span = Span { start: self.at as u32, len: len as u32 };
        self.at = end;
        Ok(span)
    }

    pub(super) fn count(&mut self, items: usize) -> Result<(), String> {
        self.n_item = self.n_item.saturating_add(items);
        let max = (ITEMS_FREE + self.at / 8 * ITEMS_PER_8_BYTES).min(ITEMS_MAX);
        if self.n_item > max {
            return Err(format!("more than {max} items, which no checkpoint has there"));
        }
        if self.stack.len().max(self.marks.len()) > WAITING_MAX {
            return Err(format!("more than {WAITING_MAX} values wait to be used"));
        }
        Ok(())
    }

    pub(super) fn push(&mut self, value: Value) -> Result<(), String> {
        self.count(1)?;
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Result<Value, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| "a value is wanted where there is none".to_owned())
    }

    fn protocol(&mut self) -> Result<(), String> {
        let [version] = self.fixed::<1>()?;
        if version <= 5 { Ok(()) } else { Err(format!("protocol {version} is not known")) }
    }

    fn mark(&mut self) -> Result<(), String> {
        self.count(1)?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// `POP` takes a mark when that is what was put last.
    fn discard(&mut self) -> Result<(), String> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(|_| ())
    }

    fn stop(&mut self) -> Result<Value, String> {
        let value = self.pop()?;
        if self.stack.is_empty() && self.marks.is_empty() {
            return Ok(value);
        }
        Err(format!("{} values are left at the end", self.stack.len()))
    }

    fn whole<const N: usize>(&mut self) -> Result<(), String> {
        let bytes = self.fixed::<N>()?;
        let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | i64::from(*byte));
        self.push(Value::Int(value))
    }

    fn long(&mut self) -> Result<(), String> {
        let [len] = self.fixed::<1>()?;
        let span = self.span(len.into())?;
        let bytes = self.bytes.get(span.start as usize..self.at).unwrap_or_default();
        if bytes.len() > 8 {
            return self.push(Value::Long(span));
        }
        let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { -1 } else { 0 };
        let value = bytes.iter().rev().fold(sign, |value: i64, byte| value << 8 | i64::from(*byte));
        self.push(Value::Int(value))
    }

    fn text(&mut self, len: usize) -> Result<(), String> {
        let span = self.span(len)?;
        let bytes = self.bytes.get(span.start as usize..self.at).unwrap_or_default();
        if std::str::from_utf8(bytes).is_err() {
            return Err("a text is not UTF-8".into());
        }
        self.push(Value::Text(span))
    }

    fn memo_step(&mut self, opcode: u8) -> Result<(), String> {
        let number = match opcode {
            b'q' | b'h' => self.fixed::<1>()?[0].into(),
            b'r' | b'j' => u32::from_le_bytes(self.fixed::<4>()?),
            _ => self.memo.len() as u32,
        };
        if matches!(opcode, b'h' | b'j') {
            let value = self.memo.get(number);
            let value = value.ok_or_else(|| format!("value {number} is remembered nowhere"))?;
            return self.push(value);
        }
        self.count(1)?;
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = self.stack.get(floor..).and_then(<[Value]>::last);
        let value = *value.ok_or("there is nothing to remember")?;
        self.memo.insert(number, value);
        Ok(())
    }

    pub(super) fn make(&mut self, kind: fn(u32) -> Value, items: Vec<Value>) -> Result<(), String> {
        let number = self.containers.len() as u32;
        let max = CONTAINERS_FREE + self.at / 8 * CONTAINERS_PER_8_BYTES;
        if self.containers.len() >= max {
            return Err(format!("more than {max} lists and dicts, which no checkpoint has there"));
        }
        self.containers.push(items);
        self.push(kind(number))
    }

    /// Takes what was pushed since the last mark, and the mark.
    fn since_mark(&mut self) -> Result<Vec<Value>, String> {
        let from = self.marks.pop().ok_or("there is no mark")?;
        if from > self.stack.len() {
            return Err("the values under a mark are gone".into());
        }
        Ok(self.stack.split_off(from))
    }

    fn pairs(&mut self) -> Result<Vec<Value>, String> {
        let items = self.since_mark()?;
        if items.len().is_multiple_of(2) { Ok(items) } else { Err("a key has no value".into()) }
    }

    fn last(&mut self, n: usize) -> Result<Vec<Value>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(n).filter(|from| *from >= floor);
        let from = from.ok_or_else(|| format!("{n} values are wanted where there are fewer"))?;
        Ok(self.stack.split_off(from))
    }

    fn top(&self) -> Result<Value, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.get(floor..).and_then(<[Value]>::last);
        top.copied().ok_or_else(|| "a value is wanted where there is none".to_owned())
    }

    fn extend_list(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Value::List(list) = self.top()? else {
            return Err("items are added to no list".into());
        };
        self.extend(list, items)
    }

    fn extend_dict(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Value::Dict(dict) = self.top()? else {
            return Err("members are set in no dict".into());
        };
        self.extend(dict, items)
    }

    fn extend(&mut self, container: u32, items: Vec<Value>) -> Result<(), String> {
        match self.containers.get_mut(container as usize) {
            Some(container) => container.extend(items),
            None => return Err("a container is gone".into()),
        }
        Ok(())
    }
}
