//! bf16 matrices in twelve bits a number, exactly.
//!
//! A number of bf16 has eight bits of exponent, of which a matrix uses few: of normally distributed weights all but a few in
//! ten thousand have one of fifteen neighbouring exponents. So a number is kept as its sign, its mantissa and four bits that say
//! which; the rest, *strays*, are kept whole beside. Three quarters of the bytes, and every bit of every number.
//!
//! A *panel* holds sixteen rows. It begins with a table: the exponent bits of each of the sixteen codes, twice. *Units* follow,
//! 128 numbers of each row; of each row three vectors of 32 words, word `i` of them:
//!
//! | vector | bit 15 | bits 8 to 14 | bit 7 | bits 0 to 6 |
//! | --- | --- | --- | --- | --- |
//! | first | sign of number `i` | mantissa of `32 + i` | sign of `32 + i` | mantissa of `i` |
//! | second | the same of `64 + i` and `96 + i` | | | |
//! | third | codes of `i`, `32 + i`, `64 + i`, `96 + i`, four bits each, from the lowest | | | |
//!
//! So two numbers are one word, and turning its bytes round is all that the second takes. Code 15 is the exponent of zero and of
//! what is subnormal; code `c` below is that of `c` less than the panel's largest. Rows are filled up with zeros to whole units,
//! panels to sixteen rows.

use super::bf16;
use super::panels::OUTS;

/// Numbers of one row in a unit.
pub(crate) const STEP: usize = 128;
/// Bytes of a vector.
pub(crate) const VECTOR: usize = 64;
/// Bytes of one row of a unit.
pub(crate) const ROW_BYTES: usize = 3 * VECTOR;
/// Bytes of a unit.
pub(crate) const UNIT_BYTES: usize = OUTS * ROW_BYTES;
/// Bytes of a panel's table.
pub(crate) const TABLE_BYTES: usize = VECTOR;

/// Words of a vector.
const WORDS: usize = 32;
/// The code of zero.
pub(crate) const ZERO: u16 = 15;
/// Sign and mantissa.
pub(crate) const REST: u16 = 0x807f;
/// Numbers of a panel that are looked at for its exponents, about.
const SAMPLE_LEN: usize = 1024;

/// A matrix with more strays than one number in so many is not worth it.
const STRAYS: usize = 64;

/// A number whose exponent has no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stray {
    /// Its place in the panel, unit after unit, row after row.
    pub(crate) at: u32,
    /// The number.
    pub(crate) bits: u16,
}

impl Stray {
    /// Its unit, its row, and its place in the row's part of the unit.
    pub(crate) fn place(self) -> (usize, usize, usize) {
        let at = self.at as usize;
        (at / (OUTS * STEP), at / STEP % OUTS, at % STEP)
    }
}

/// Units of rows of `dim` numbers.
pub(crate) const fn units(dim: usize) -> usize {
    dim.div_ceil(STEP)
}

/// Bytes of a panel of rows of `dim` numbers; `None` when they are too many to say where a stray is.
pub(crate) fn panel_bytes(dim: usize) -> Option<usize> {
    u32::try_from(units(dim).checked_mul(OUTS * STEP)?).ok()?;
    Some(TABLE_BYTES + units(dim) * UNIT_BYTES)
}

/// Bytes of `n_out` rows of `dim` numbers in panels; `None` when they are too many.
pub(crate) fn bytes(n_out: usize, dim: usize) -> Option<usize> {
    panel_bytes(dim)?.checked_mul(n_out.div_ceil(OUTS))
}

/// Whether so many rows take much less than they do as stored: small matrices are filled up.
pub(crate) fn is_smaller(n_out: usize, dim: usize) -> bool {
    let stored = n_out.saturating_mul(dim).saturating_mul(size_of::<u16>());
    bytes(n_out, dim).is_some_and(|bytes| bytes <= stored / 8 * 7)
}

/// Whether so many of a matrix's `numbers` may be strays.
pub(crate) fn is_worth_it(strays: usize, numbers: usize) -> bool {
    strays <= numbers / STRAYS
}

/// The largest exponent that has a code: of every fifteen neighbours those that most of the numbers of some rows of `dim`
/// have, by a sample.
pub(crate) fn largest_exponent(rows: &[u8], dim: usize) -> u16 {
    let numbers = rows.len() / size_of::<u16>();
    // Prime to a row's length, so that it falls on columns by turns.
    let distances = (numbers / SAMPLE_LEN).max(1)..;
    let distance = distances.into_iter().find(|distance| gcd(*distance, dim) == 1).unwrap_or(1);
    let mut counts = [0u32; 256];
    for number in rows.chunks_exact(size_of::<u16>()).step_by(distance) {
        counts[usize::from(exponent(u16::from_le_bytes([number[0], number[1]])))] += 1;
    }
    let in_window = |largest: &u16| {
        let largest = usize::from(*largest);
        counts[largest + 1 - usize::from(ZERO)..=largest].iter().sum::<u32>()
    };
    // The last of equals: what is large matters more.
    (ZERO..=255).max_by_key(in_window).unwrap_or(255)
}

/// The greatest common divisor.
fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The eight bits of a number's exponent.
fn exponent(bits: u16) -> u16 {
    (bits >> 7) & 0xff
}

/// The exponent bits of every code.
pub(crate) fn table(largest: u16) -> [u16; WORDS] {
    std::array::from_fn(|i| match i as u16 % 16 {
        ZERO => 0,
        code => (largest - code) << 7,
    })
}

/// The code of an exponent, and whether it is the exponent's own.
fn code(exponent: u16, largest: u16) -> (u16, bool) {
    match largest.checked_sub(exponent) {
        _ if exponent == 0 => (ZERO, true),
        Some(code) if code < ZERO => (code, true),
        _ => (ZERO, false),
    }
}

/// Writes up to sixteen rows of `dim` numbers, back to back in `rows`, into `panel`, and says which are strays, in order.
pub(crate) fn pack(rows: &[u8], dim: usize, panel: &mut [u8], strays: &mut Vec<Stray>) {
    panel.fill(0);
    let largest = largest_exponent(rows, dim);
    let (head, units) = panel.split_at_mut(TABLE_BYTES);
    for (to, bits) in head.chunks_exact_mut(2).zip(table(largest)) {
        to.copy_from_slice(&bits.to_le_bytes());
    }
    let row_bytes = (dim * size_of::<u16>()).max(1);
    for (u, unit) in units.chunks_exact_mut(UNIT_BYTES).enumerate() {
        for (r, part) in unit.chunks_exact_mut(ROW_BYTES).enumerate() {
            let row = rows.chunks_exact(row_bytes).nth(r).unwrap_or(&[]);
            let row = row.chunks_exact(2).map(|x| u16::from_le_bytes([x[0], x[1]]));
            let mut numbers = [0u16; STEP];
            numbers.iter_mut().zip(row.skip(u * STEP)).for_each(|(to, x)| *to = x);
            pack_part(&numbers, largest, part, |k, bits| {
                strays.push(Stray { at: ((u * OUTS + r) * STEP + k) as u32, bits });
            });
        }
    }
}

/// One row's numbers of a unit; `stray(place, bits)` for what has no code.
fn pack_part(
    numbers: &[u16; STEP],
    largest: u16,
    part: &mut [u8],
    mut stray: impl FnMut(usize, u16),
) {
    let mut words = [[0u16; WORDS]; 3];
    for (k, bits) in numbers.iter().enumerate() {
        let (code, is_own) = code(exponent(*bits), largest);
        if !is_own {
            stray(k, *bits);
        }
        let (quarter, i) = (k / WORDS, k % WORDS);
        let rest = bits & REST;
        words[quarter / 2][i] |= if quarter % 2 == 0 { rest } else { rest.swap_bytes() };
        words[2][i] |= code << (4 * quarter);
    }
    for (to, word) in part.chunks_exact_mut(2).zip(words.as_flattened()) {
        to.copy_from_slice(&word.to_le_bytes());
    }
}

/// Row `lane` of `panel` with these strays, of `out.len()` numbers, widened.
pub(crate) fn unpack_row(panel: &[u8], strays: &[Stray], lane: usize, out: &mut [f32]) {
    let (table, units) = panel.split_at(TABLE_BYTES);
    for (k, out) in out.iter_mut().enumerate() {
        let part = &units[k / STEP * UNIT_BYTES + lane * ROW_BYTES..][..ROW_BYTES];
        *out = bf16::to_f32(number(part, table, k % STEP));
    }
    for stray in strays {
        let (unit, row, place) = stray.place();
        if row == lane
            && let Some(out) = out.get_mut(unit * STEP + place)
        {
            *out = bf16::to_f32(stray.bits);
        }
    }
}

/// Number `k` of a row's part of a unit, with a panel's table, unless it is a stray.
pub(crate) fn number(part: &[u8], table: &[u8], k: usize) -> u16 {
    let word = |from: &[u8], i: usize| u16::from_le_bytes([from[2 * i], from[2 * i + 1]]);
    let (quarter, i) = (k / WORDS, k % WORDS);
    let rest = word(part, quarter / 2 * WORDS + i);
    let rest = if quarter.is_multiple_of(2) { rest } else { rest.swap_bytes() };
    let code = (word(part, 2 * WORDS + i) >> (4 * quarter)) & 15;
    (rest & REST) | word(table, usize::from(code))
}

/// The strays of a matrix, panel after panel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Strays {
    /// Where each panel's begin, and where the last one's end.
    starts: Vec<u32>,
    all: Vec<Stray>,
}

impl Strays {
    /// Of `n_panel` panels, from those of some panels in any order; `None` when they are too many.
    pub(crate) fn new(n_panel: usize, mut some: Vec<(usize, Vec<Stray>)>) -> Option<Self> {
        some.sort_unstable_by_key(|(panel, _)| *panel);
        let n = some.iter().map(|(_, of_panel)| of_panel.len()).sum();
        let mut strays =
            Self { starts: Vec::with_capacity(n_panel + 1), all: Vec::with_capacity(n) };
        let mut some = some.into_iter().peekable();
        for panel in 0..n_panel {
            strays.starts.push(u32::try_from(strays.all.len()).ok()?);
            if let Some((_, of_panel)) = some.next_if(|(at, _)| *at == panel) {
                strays.all.extend(of_panel);
            }
        }
        strays.starts.push(u32::try_from(strays.all.len()).ok()?);
        Some(strays)
    }

    /// Those of a panel, in order.
    pub(crate) fn of(&self, panel: usize) -> &[Stray] {
        match (self.starts.get(panel), self.starts.get(panel + 1)) {
            (Some(start), Some(end)) => &self.all[*start as usize..*end as usize],
            _ => &[],
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
