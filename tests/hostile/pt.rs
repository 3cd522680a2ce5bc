//! Files of `torch.save` that are broken, or that want to do something: archives, pickles, the older container.

use hadal_tests::archive::stored;

use crate::{Corpus, golden};

const CASE: &str = "mini-tied";

pub(crate) fn add(corpus: &mut Corpus) {
    let read = |name: &str| std::fs::read(golden(CASE).join(name)).unwrap();
    let (archive, legacy) = (read("state_dict.pt"), read("legacy.pt"));
    let mut file = |name: &str, words: &'static str, bytes: &[u8]| {
        corpus.file(&format!("pt-{name}"), "model.pt", words, bytes, Some(CASE));
    };
    file("reject-unknown-global", "global", &read("reject_unknown_global.pt"));
    archives(&archive, &mut file);
    older(&legacy, &mut file);
    for (name, words, pickle) in pickles() {
        file(
            &format!("pickle-{name}"),
            words,
            &stored(&[("x/data.pkl", &pickle), ("x/version", b"3\n")]),
        );
    }
    entries(&mut file);
}

fn archives(whole: &[u8], file: &mut impl FnMut(&str, &'static str, &[u8])) {
    file("empty", "empty", b"");
    file("text", "model.pt", b"hello, I am a checkpoint");
    for part in 1..16 {
        file("cut", "model.pt", &whole[..whole.len() * part / 16]);
    }
    file("cut-by-a-byte", "model.pt", &whole[..whole.len() - 1]);
    // The writer's end is three records: the directory of 64 bits, where that is, and the older one of 32 bits. The
    // first counts: number of entries, size and place of the directory.
    let end = whole.len() - 22;
    let long = end - 20 - 56;
    for at in [32, 40, 48] {
        for byte in [0x00, 0x7f, 0xff] {
            let mut broken = whole.to_vec();
            broken[long + at..long + at + 8].fill(byte);
            file("end-record", "model.pt", &broken);
        }
    }
    for at in [long, end - 20, end - 20 + 8, end] {
        let mut broken = whole.to_vec();
        broken[at] ^= 0x55;
        file("end-signature", "model.pt", &broken);
    }
    // The directory's first entry: its signature, method, sizes, length of its name, place in the file.
    let directory = u32::from_le_bytes(whole[end + 16..end + 20].try_into().unwrap()) as usize;
    for at in [0, 10, 20, 23, 24, 27, 28, 42, 45] {
        let mut broken = whole.to_vec();
        broken[directory + at] ^= 0x41;
        file("directory", "model.pt", &broken);
    }
}

fn older(whole: &[u8], file: &mut impl FnMut(&str, &'static str, &[u8])) {
    for part in 1..16 {
        file("older-cut", "model.pt", &whole[..whole.len() * part / 16]);
    }
    let magic = whole
        .windows(10)
        .position(|w| w == [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19]);
    let mut broken = whole.to_vec();
    broken[magic.unwrap()] ^= 1;
    file("older-magic", "model.pt", &broken);
}

/// Pickles that no checkpoint has: (name, words of the refusal, bytes).
fn pickles() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let global = |name: &str| [b"\x80\x02c", name.as_bytes(), b"\n"].concat();
    let call = |name: &str, argument: &[u8]| {
        [&global(name)[..], b"X", &(argument.len() as u32).to_le_bytes(), argument, b"\x85R."]
            .concat()
    };
    vec![
        ("system", "os.system", call("os\nsystem", b"touch pwned")),
        ("posix", "posix.system", call("posix\nsystem", b"touch pwned")),
        ("eval", "builtins.eval", call("builtins\neval", b"1+1")),
        ("exec", "__builtin__.exec", call("__builtin__\nexec", b"1+1")),
        ("getattr", "builtins.getattr", call("builtins\ngetattr", b"x")),
        ("subprocess", "subprocess.Popen", call("subprocess\nPopen", b"sh")),
        ("load", "torch.load", call("torch\nload", b"x")),
        ("dynamo", "torch._dynamo", call("torch._dynamo\nx", b"x")),
        ("dotted", "collections.OrderedDict", call("collections\nOrderedDict.__class__", b"x")),
        ("stack-global", "os.system", b"\x80\x04\x8c\x02os\x8c\x06system\x93.".to_vec()),
        ("inst", "0x69", b"\x80\x02(ios\nsystem\n.".to_vec()),
        ("obj", "os.system", b"\x80\x02(cos\nsystem\no.".to_vec()),
        ("extension", "0x82", b"\x80\x02\x82\x01.".to_vec()),
        ("text-persid", "0x50", b"\x80\x02P1\n.".to_vec()),
        ("build", "model.pt", b"\x80\x02K\x01}b.".to_vec()),
        ("empty", "model.pt", Vec::new()),
        ("no-stop", "model.pt", b"\x80\x02}".to_vec()),
        ("nothing-left", "model.pt", b"\x80\x02.".to_vec()),
        ("two-left", "model.pt", b"\x80\x02}}.".to_vec()),
        ("protocol", "protocol", b"\x80\x09}.".to_vec()),
        ("underflow", "model.pt", b"\x80\x02\x87.".to_vec()),
        ("no-mark", "model.pt", b"\x80\x02}u.".to_vec()),
        ("unknown-memo", "model.pt", b"\x80\x02h\x07.".to_vec()),
        ("endless-text", "model.pt", b"\x80\x02X\xff\xff\xff\xffabc.".to_vec()),
        ("endless-bytes", "model.pt", b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.".to_vec()),
        ("endless-number", "model.pt", b"\x80\x02\x8b\xff\xff\xff\x7f\x01.".to_vec()),
        ("endless-frame", "model.pt", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff}.".to_vec()),
        ("far-memo", "model.pt", b"\x80\x02}r\xff\xff\xff\xff.".to_vec()),
        ("a-number", "model.pt", b"\x80\x02K\x2a.".to_vec()),
        ("a-list-in-itself", "model.pt", b"\x80\x02]q\x00h\x00a.".to_vec()),
        ("a-dict-in-itself", "model.pt", b"\x80\x02}q\x00K\x01h\x00s.".to_vec()),
        (
            "deep-lists",
            "model.pt",
            [b"\x80\x02", &[b']'; 15_000][..], &[b'a'; 14_999], b"."].concat(),
        ),
        ("deep-tuples", "model.pt", [b"\x80\x02)", &[0x85; 20_000][..], b"."].concat()),
        ("marks", "model.pt", [b"\x80\x02", &[b'('; 200_000][..], b"."].concat()),
        ("doubling", "model.pt", doubling()),
        ("empty-tuples", "wait to be used", [b"\x80\x02", &[b')'; 1 << 20][..], b"."].concat()),
        ("empty-lists", "lists and dicts", b"]0".repeat(1 << 18)),
        ("many-remembered", "wait to be used", (0u32..1 << 18).flat_map(remembered).collect()),
        ("many-remembered-and-gone", "model.pt", (0u32..1 << 18).flat_map(gone).collect()),
        ("dead-beef", "model.pt", [0xde, 0xad, 0xbe, 0xef].repeat(100)),
    ]
}

/// An empty tuple under a number.
fn remembered(number: u32) -> Vec<u8> {
    [b")r", &number.to_le_bytes()[..]].concat()
}

/// The same, taken off the stack again; numbers from the far end.
fn gone(number: u32) -> Vec<u8> {
    [b")r", &(u32::MAX - number).to_le_bytes()[..], b"0"].concat()
}

/// Lists of two references to the list before: 2^60 leaves in a kilobyte.
fn doubling() -> Vec<u8> {
    let mut pickle = b"\x80\x02]q\x00".to_vec();
    for i in 0..60u8 {
        pickle.extend([b'(', b'h', i, b'h', i, b'l', b'q', i + 1]);
    }
    pickle.push(b'.');
    pickle
}

/// Archives whose entries are not what `torch.save` writes.
fn entries(file: &mut impl FnMut(&str, &'static str, &[u8])) {
    let empty: &[u8] = b"\x80\x02}.";
    file("no-pickle", "data.pkl", &stored(&[("x/version", b"3\n")]));
    file("no-entries", "model.pt", &stored(&[]));
    file("two-pickles", "model.pt", &stored(&[("x/data.pkl", empty), ("x/data.pkl", empty)]));
    file("no-tensors", "model.pt", &stored(&[("x/data.pkl", empty), ("x/version", b"3\n")]));
    file("big-endian", "big", &stored(&[("x/data.pkl", empty), ("x/byteorder", b"big")]));
    for name in ["../data.pkl", "/etc/data.pkl", "x/../../data.pkl", "x\\..\\data.pkl", ""] {
        file("away", "model.pt", &stored(&[(name, empty), ("x/version", b"3\n")]));
    }
    // Compressed: a few bytes that claim to be many.
    let mut bomb = stored(&[("x/data.pkl", empty), ("x/version", b"3\n")]);
    let directory = bomb.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    bomb[8] = 8;
    bomb[directory + 10] = 8;
    bomb[directory + 24..directory + 28].copy_from_slice(&0xff_ff_ff_f0_u32.to_le_bytes());
    file("bomb", "model.pt", &bomb);
}
