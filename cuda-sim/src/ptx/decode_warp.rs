//! Control flow, barriers, warp-wide operations and matrix multiplication.

use super::Class;
use super::body::Operand;
use super::decode::Decoder;
use super::instr::{Element, Mma, Op, Reduce, ReduxOp, ShflMode, VoteMode};
use super::words::{Words, bits};
use crate::fault::Result;

impl<'a> Decoder<'a> {
    pub(super) fn decode_warp(
        &mut self,
        w: &Words<'_>,
        o: &[Operand<'a>],
    ) -> Result<Option<(Op, Class)>> {
        let found = match (w.root, o) {
            ("bra", [Operand::Word(label)]) => {
                (Op::Branch { target: self.label(label)? }, Class::Branch)
            }
            ("brx", [index, Operand::Word(list)]) => {
                let targets = self.branch_targets(list)?;
                (Op::BranchIndex { index: self.source(index)?, targets }, Class::Branch)
            }
            ("ret" | "exit", []) => (Op::Exit, Class::Branch),
            ("trap", []) => (Op::Trap { what: "the kernel trapped" }, Class::Branch),
            ("brkpt" | "nanosleep" | "griddepcontrol" | "setmaxnreg", _) => {
                (Op::Nop, Class::Branch)
            }
            ("call", _) => (self.call(o)?, Class::Branch),
            ("fence" | "membar", _) => (Op::Nop, Class::Barrier),
            ("bar" | "barrier", _) if w.has("warp") => match o {
                [mask] => (Op::WarpSync { mask: self.source(mask)? }, Class::Barrier),
                _ => return self.refuse("`bar.warp.sync` without a mask"),
            },
            ("bar" | "barrier", _) => (self.barrier(w, o)?, Class::Barrier),
            ("shfl", [d, a, b, c, mask]) => (self.shfl(w, [d, a, b, c, mask])?, Class::Warp),
            ("vote", [d, a, mask]) => (self.vote(w, d, a, mask)?, Class::Warp),
            ("match", [d, a, mask]) => (self.match_any(w, d, a, mask)?, Class::Warp),
            ("redux", [d, a, mask]) => (self.redux(w, d, a, mask)?, Class::Warp),
            ("activemask", [d]) => (Op::ActiveMask { d: self.destination(d)? }, Class::Warp),
            ("elect", [Operand::Pair(d, p), mask]) => {
                let d = if *d == "_" { None } else { Some(self.destination(&Operand::Word(d))?) };
                (Op::Elect { d, p: self.pred(p)?, mask: self.source(mask)? }, Class::Warp)
            }
            ("movmatrix", [d, a]) => {
                (Op::Movmatrix { d: self.destination(d)?, a: self.source(a)? }, Class::Warp)
            }
            ("mma", [d, a, b, c]) => (self.mma(w, [d, a, b, c])?, Class::Mma),
            _ => return Ok(None),
        };
        Ok(Some(found))
    }

    /// Device functions are inlined by the compiler; what remains is an assertion, which ends the kernel.
    fn call(&self, o: &[Operand<'a>]) -> Result<Op> {
        let name = o.iter().find_map(|operand| match operand {
            Operand::Word(name) => Some(*name),
            _ => None,
        });
        match name {
            Some("__assertfail") => Ok(Op::Trap { what: "an assertion failed" }),
            name => self.refuse(format!("a call of `{}`", name.unwrap_or("nothing"))),
        }
    }

    fn barrier(&mut self, w: &Words<'_>, o: &[Operand<'a>]) -> Result<Op> {
        let arrive = w.has("arrive");
        if !w.has("red") {
            let (id, count) = match o {
                [id] if !arrive => (self.source(id)?, None),
                [id, count] => (self.source(id)?, Some(self.source(count)?)),
                _ => return self.refuse(format!("a barrier with {} operands", o.len())),
            };
            return Ok(Op::Barrier { id, count, arrive, reduce: None });
        }
        let (d, id, count, p) = match o {
            [d, id, p] => (d, id, None, p),
            [d, id, count, p] => (d, id, Some(count), p),
            _ => return self.refuse(format!("a reducing barrier with {} operands", o.len())),
        };
        let (p, not) = self.pred_operand(p)?;
        let reduce = match (w.has("popc"), w.has("and")) {
            (true, _) => Reduce::Popc(self.destination(d)?),
            (_, true) => Reduce::And(self.pred_destination(d)?),
            _ => Reduce::Or(self.pred_destination(d)?),
        };
        let count = match count {
            Some(count) => Some(self.source(count)?),
            None => None,
        };
        Ok(Op::Barrier { id: self.source(id)?, count, arrive, reduce: Some((reduce, p, not)) })
    }

    fn shfl(&mut self, w: &Words<'_>, [d, a, b, c, mask]: [&Operand<'a>; 5]) -> Result<Op> {
        let modes = [
            ("up", ShflMode::Up),
            ("down", ShflMode::Down),
            ("bfly", ShflMode::Bfly),
            ("idx", ShflMode::Idx),
        ];
        let mode = modes.into_iter().find(|(word, _)| w.has(word));
        let Some((_, mode)) = mode.filter(|_| w.has("sync")) else {
            return self.refuse(format!("`shfl` with {:?}", w.mods));
        };
        let (d, p) = match d {
            Operand::Pair(d, p) => (
                self.destination(&Operand::Word(d))?,
                if *p == "_" { None } else { Some(self.pred(p)?) },
            ),
            one => (self.destination(one)?, None),
        };
        let (a, b, c) = (self.source(a)?, self.source(b)?, self.source(c)?);
        Ok(Op::Shfl { mode, d, p, a, b, c, mask: self.source(mask)? })
    }

    fn vote(
        &mut self,
        w: &Words<'_>,
        d: &Operand<'a>,
        a: &Operand<'a>,
        mask: &Operand<'a>,
    ) -> Result<Op> {
        let modes = [
            ("all", VoteMode::All),
            ("any", VoteMode::Any),
            ("uni", VoteMode::Uni),
            ("ballot", VoteMode::Ballot),
        ];
        let mode = modes.into_iter().find(|(word, _)| w.has(word));
        let Some((_, mode)) = mode.filter(|_| w.has("sync")) else {
            return self.refuse(format!("`vote` with {:?}", w.mods));
        };
        let a = self.pred_operand(a)?;
        let d =
            if mode == VoteMode::Ballot { self.destination(d)? } else { self.pred_destination(d)? };
        Ok(Op::Vote { mode, d, a, mask: self.source(mask)? })
    }

    fn match_any(
        &mut self,
        w: &Words<'_>,
        d: &Operand<'a>,
        a: &Operand<'a>,
        mask: &Operand<'a>,
    ) -> Result<Op> {
        let (d, p) = match d {
            Operand::Pair(d, p) => (self.destination(&Operand::Word(d))?, Some(self.pred(p)?)),
            one => (self.destination(one)?, None),
        };
        let bits = bits(w.last()).unwrap_or(32);
        let (a, mask) = (self.source(a)?, self.source(mask)?);
        Ok(Op::Match { all: w.has("all"), d, p, a, bits, mask })
    }

    fn redux(
        &mut self,
        w: &Words<'_>,
        d: &Operand<'a>,
        a: &Operand<'a>,
        mask: &Operand<'a>,
    ) -> Result<Op> {
        let op = match (w.mods.get(1).copied().unwrap_or_default(), w.last()) {
            ("add", "u32" | "s32") => ReduxOp::Add,
            ("min", "u32") => ReduxOp::MinU,
            ("max", "u32") => ReduxOp::MaxU,
            ("min", "s32") => ReduxOp::MinS,
            ("max", "s32") => ReduxOp::MaxS,
            ("and", "b32") => ReduxOp::And,
            ("or", "b32") => ReduxOp::Or,
            ("xor", "b32") => ReduxOp::Xor,
            other => return self.refuse(format!("`redux` with {other:?}")),
        };
        let (d, a) = (self.destination(d)?, self.source(a)?);
        Ok(Op::Redux { op, d, a, mask: self.source(mask)? })
    }

    fn mma(&mut self, w: &Words<'_>, operands: [&Operand<'a>; 4]) -> Result<Op> {
        let shape = w.mods.iter().find_map(|part| part.strip_prefix("m16n8k"));
        let k: u8 = shape.and_then(|k| k.parse().ok()).unwrap_or(0);
        let types: Vec<&str> = w.types().collect();
        let [d_type, a_type, b_type, c_type] = types[..] else {
            return self.refuse(format!("`mma` with types {types:?}"));
        };
        let (a, b) = (element(a_type), element(b_type));
        let (Some(a_type), Some(b_type)) = (a, b) else {
            return self.refuse(format!("`mma` of `{a_type}` and `{b_type}`"));
        };
        let integers = matches!(a_type, Element::S8 | Element::U8);
        let depth_fits = match a_type {
            Element::F16 | Element::Bf16 => matches!(k, 8 | 16),
            Element::Tf32 => matches!(k, 4 | 8),
            _ => matches!(k, 16 | 32),
        };
        let accumulator_fits = match (d_type, c_type) {
            ("f32", "f32") => !integers,
            ("f16", "f16") => matches!(a_type, Element::F16 | Element::E4m3 | Element::E5m2),
            ("s32", "s32") => integers,
            _ => false,
        };
        let pair_fits = a_type == b_type
            || integers && matches!(b_type, Element::S8 | Element::U8)
            || matches!(
                (a_type, b_type),
                (Element::E4m3, Element::E5m2) | (Element::E5m2, Element::E4m3)
            );
        if !depth_fits || !accumulator_fits || !pair_fits || !w.has("row") || !w.has("col") {
            return self.refuse(format!("`mma` with {:?}", w.mods));
        }
        let half_accumulator = d_type == "f16";
        let [d, a, b, c] = operands.map(|operand| match operand {
            Operand::List(parts) => &parts[..],
            one => std::slice::from_ref(one),
        });
        let bits = match a_type {
            Element::Tf32 => 32,
            Element::F16 | Element::Bf16 => 16,
            _ => 8,
        };
        let a_count = 16 * usize::from(k) * bits / 1024;
        let c_count = if half_accumulator { 2 } else { 4 };
        if [d.len(), a.len(), b.len(), c.len()] != [c_count, a_count, a_count / 2, c_count] {
            return self.refuse(format!("`mma` {:?} with another number of registers", w.mods));
        }
        let d = d.iter().map(|d| self.destination(d)).collect::<Result<Vec<_>>>()?;
        let (a, b, c) = (self.sources(a)?, self.sources(b)?, self.sources(c)?);
        let satfinite = w.has("satfinite");
        Ok(Op::Mma(Box::new(Mma { k, a_type, b_type, half_accumulator, satfinite, d, a, b, c })))
    }
}

fn element(name: &str) -> Option<Element> {
    Some(match name {
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "tf32" => Element::Tf32,
        "e4m3" => Element::E4m3,
        "e5m2" => Element::E5m2,
        "s8" => Element::S8,
        "u8" => Element::U8,
        _ => return None,
    })
}
