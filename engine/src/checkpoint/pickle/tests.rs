use super::*;

/// A pickle put together by hand.
#[derive(Default)]
struct Made(Vec<u8>);

impl Made {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    fn int(self, number: i32) -> Self {
        self.raw(b"J").raw(&number.to_le_bytes())
    }

    fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    fn tuple(self, numbers: &[i32]) -> Self {
        numbers.iter().fold(self.raw(b"("), |made, n| made.int(*n)).raw(b"t")
    }

    fn storage(self, key: &str, count: i32) -> Self {
        let id =
            self.raw(b"(").text("storage").global("torch", "FloatStorage").text(key).text("cpu");
        id.int(count).raw(b"tQ")
    }

    /// A view of a storage, row-major.
    fn tensor(self, key: &str, count: i32, shape: &[i32], stride: &[i32]) -> Self {
        let call = self.global("torch._utils", "_rebuild_tensor_v2").raw(b"(").storage(key, count);
        let views = call.int(0).tuple(shape).tuple(stride).raw(b"\x89");
        views.global("collections", "OrderedDict").raw(b")RtR")
    }

    fn stop(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

fn made() -> Made {
    Made::default().raw(b"\x80\x02")
}

#[track_caller]
fn refused(bytes: &[u8], why: &str) {
    let error = read(bytes).err().unwrap_or_else(|| "read".into());
    assert!(error.contains(why), "{error}");
}

#[test]
fn a_dict_of_tensors_is_what_it_says() {
    let bytes = made()
        .raw(b"}(")
        .text("w")
        .tensor("7", 6, &[2, 3], &[3, 1])
        .text("n")
        .int(-5)
        .raw(b"u")
        .stop();
    let pickle = read(&bytes).unwrap();
    assert_eq!(pickle.len, bytes.len());
    let Value::Dict(dict) = pickle.value else { panic!("{:?}", pickle.value) };
    assert_eq!(pickle.member(dict, "n"), Some(Value::Int(-5)));
    assert_eq!(pickle.member(dict, "w"), Some(Value::Tensor(0)));
    let tensor = &pickle.tensors[0];
    assert_eq!(
        (tensor.offset, &tensor.shape[..], &tensor.stride[..]),
        (0, &[2, 3][..], &[3, 1][..])
    );
    let storage = pickle.storages[tensor.storage as usize];
    assert_eq!((pickle.text(storage.key), storage.kind, storage.count), ("7", Kind::Float, 6));
}

#[test]
fn newer_protocols_say_the_same_in_other_words() {
    // PROTO 4, FRAME, SHORT_BINUNICODE, MEMOIZE, STACK_GLOBAL.
    let word = |made: Made, text: &str| {
        made.raw(&[0x8c, text.len() as u8]).raw(text.as_bytes()).raw(b"\x94")
    };
    let begun = Made::default().raw(b"\x80\x04\x95").raw(&40u64.to_le_bytes());
    let bytes = word(word(begun, "collections"), "OrderedDict").raw(b"\x93)R\x94").stop();
    assert!(matches!(read(&bytes).unwrap().value, Value::Dict(_)));
}

#[test]
fn numbers_of_every_width() {
    let bytes = made()
        .raw(b"(K\xffM\xff\xffJ\xff\xff\xff\xff\x8a\x01\x80\x8a\x00\x8a\x09\0\0\0\0\0\0\0\0\x01")
        .raw(b"G\x3f\xf8\0\0\0\0\0\0t")
        .stop();
    let pickle = read(&bytes).unwrap();
    let Value::Tuple(tuple) = pickle.value else { panic!("no tuple") };
    let items = pickle.items(tuple);
    let want = [255, 65535, -1, -128, 0].map(Value::Int);
    assert_eq!(&items[..5], want);
    let Value::Long(span) = items[5] else { panic!("{:?}", items[5]) };
    assert_eq!(pickle.raw(span).len(), 9);
    assert_eq!(items[6], Value::Float(1.5));
}

#[test]
fn names_outside_the_list_are_refused_by_name_however_they_come() {
    refused(&made().global("os", "system").text("true").raw(b"\x85R").stop(), "`os.system`");
    refused(&made().global("builtins", "eval").stop(), "`builtins.eval`");
    refused(&made().global("torch", "load").stop(), "`torch.load`");
    refused(&made().text("posix").text("system").raw(b"\x93").stop(), "`posix.system`");
    refused(&made().global("collections", "OrderedDict.__init__").stop(), "OrderedDict.__init__");
}

#[test]
fn allowed_names_do_nothing_but_what_they_are_for() {
    refused(&made().global("torch", "FloatStorage").raw(b")R").stop(), "called");
    refused(&made().global("collections", "OrderedDict").int(1).raw(b"\x85R").stop(), "called");
    refused(&made().global("collections", "OrderedDict").raw(b")\x81").stop(), "no settings class");
    refused(&made().raw(b")]b").stop(), "takes none");
    refused(&made().text("f").raw(b")R").stop(), "no name");
    for opcode in [b'i', b'o', b'P', b'B', b'\x82', b'\x92', 0xff] {
        refused(&made().raw(&[opcode]).stop(), "instruction 0x");
    }
}

#[test]
fn settings_are_data() {
    let bytes = made()
        .global("config", "RLConfig")
        .raw(b")\x81}(")
        .text("lr")
        .raw(b"G\x3f\xf0\0\0\0\0\0\0")
        .text("name")
        .text("x")
        .text("layers")
        .tuple(&[1, 2])
        .text("none")
        .raw(b"Nub")
        .stop();
    let pickle = read(&bytes).unwrap();
    let settings = pickle.settings(pickle.value).unwrap();
    let want = serde_json::json!({ "lr": 1.0, "name": "x", "layers": [1, 2], "none": null });
    assert_eq!(serde_json::Value::Object(settings), want);
    assert!(pickle.settings(Value::Int(1)).is_none());
}

#[test]
fn settings_that_contain_themselves_or_double_again_and_again_end() {
    let recursive = made().raw(b"}q\0").text("me").raw(b"h\0s").stop();
    let pickle = read(&recursive).unwrap();
    assert!(pickle.settings(pickle.value).is_none());
    // Each list holds the one before it twice: sixty make 2^60 leaves.
    let mut bomb = made().raw(b"]q\0");
    for i in 0..60u8 {
        bomb = bomb.raw(&[b']', b'q', i + 1, b'(', b'h', i, b'h', i, b'e']);
    }
    let bytes = made().raw(b"}").text("bomb").raw(&bomb.0[2..]).stop();
    assert!(read(&bytes).is_err(), "lists are left on the stack");
    let mut bomb = Made::default();
    for i in 0..60u8 {
        bomb = bomb.raw(&[b']', b'q', i + 1, b'(', b'h', i, b'h', i, b'e', b'0']);
    }
    let bytes = made()
        .raw(b"]q\0")
        .raw(b"0")
        .raw(&bomb.0)
        .raw(b"}")
        .text("x")
        .raw(&[b'h', 60, b's'])
        .stop();
    let pickle = read(&bytes).unwrap();
    assert!(pickle.settings(pickle.value).is_none());
}

#[test]
fn a_deep_nest_neither_overflows_the_stack_nor_hangs() {
    // As deep as there is room for; what is pushed and taken off between keeps it from being too dense.
    let n = 60_000;
    let nested = made().raw(&b"(K\x000".repeat(n)).raw(&b"t".repeat(n)).stop();
    let pickle = read(&nested).unwrap();
    assert!(pickle.settings(pickle.value).is_none());
    let lists = made().raw(&b"]K\x000".repeat(n)).raw(&b"a".repeat(n - 1)).stop();
    assert!(read(&lists).is_ok());
}

#[test]
fn counts_are_held_to_what_is_there() {
    refused(&made().raw(b"X\xff\xff\xff\xffabc").stop(), "4294967295 bytes are announced");
    refused(&made().raw(b"\x8a\x40abc").stop(), "64 bytes are announced");
    refused(&made().raw(b"j\xff\xff\xff\xff").stop(), "remembered nowhere");
    // A number far beyond any table is remembered like any other.
    assert_eq!(read(&made().raw(b"Nr\xff\xff\xff\xff").stop()).unwrap().value, Value::None);
    refused(&made().raw(&b"N".repeat(WAITING_MAX + 2)).stop(), "wait to be used");
    refused(&made().raw(&b"(".repeat(WAITING_MAX + 2)).stop(), "wait to be used");
    refused(
        &made().raw(&b")0".repeat(ITEMS_MAX)).raw(b"N").stop(),
        "items, which no checkpoint has",
    );
    refused(&made().raw(&b"]0".repeat(ITEMS_FREE)).raw(b"N").stop(), "lists and dicts");
    let wide = vec![1; 9];
    refused(&made().tensor("0", 1, &wide, &wide).stop(), "at most 8");
    refused(&made().tensor("0", 1, &[1, 2], &[1]).stop(), "2 dimensions has 1 strides");
    refused(&made().tensor("0", 1, &[-1], &[1]).stop(), "whole numbers from 0");
    refused(&made().storage("0", -1).stop(), "-1 elements");
}

/// The densest that writers make: pairs of numbers below 256, each remembered.
#[test]
fn lists_of_small_tuples_are_not_too_many_for_their_bytes() {
    let batch = [b"(", &b"K\x01K\x02\x86\x94".repeat(1000)[..], b"e"].concat();
    let bytes = made().raw(b"]").raw(&batch.repeat(300)).stop();
    let pickle = read(&bytes).unwrap();
    let Value::List(list) = pickle.value else { panic!("{:?}", pickle.value) };
    assert_eq!(pickle.items(list).len(), 300_000);
}

#[test]
fn values_are_remembered_under_any_number_in_any_order() {
    // 1 before 0, 0 twice, one far away.
    let bytes = made()
        .raw(b"(K\x0aq\x01K\x0bq\x00K\x0cq\x00K\x0dr\x00\x00\x00\x70h\x00h\x01j\x00\x00\x00\x70t")
        .stop();
    let pickle = read(&bytes).unwrap();
    let Value::Tuple(tuple) = pickle.value else { panic!("{:?}", pickle.value) };
    assert_eq!(pickle.items(tuple)[4..], [12, 10, 13].map(Value::Int));
    assert_eq!(read(b"\x80\x02(t.").unwrap().value, Value::Empty);
}

#[test]
fn values_under_a_mark_are_not_taken_through_it() {
    refused(&made().raw(b"}(N\x85s").stop(), "wanted");
    refused(&made().raw(b"N(\x85").stop(), "wanted");
    refused(&made().raw(b"t").stop(), "no mark");
    refused(&made().raw(b"NN").stop(), "left at the end");
    refused(&made().raw(b"N(").stop(), "wanted");
    refused(&made().stop(), "wanted");
    refused(&made().raw(b"(N0N0t").raw(b"(NNNd").stop(), "no value");
    refused(b"\x80\x09N.", "protocol 9");
    refused(b"", "truncated");
}

#[test]
fn every_truncation_is_refused() {
    let bytes = made().raw(b"}(").text("w").tensor("7", 6, &[2, 3], &[3, 1]).raw(b"u").stop();
    for len in 0..bytes.len() {
        assert!(read(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
}
