"""Tasks that can only be solved by looking back: repeated lists, echoes, recall. They teach copying early."""
from stories import COLOURS, NAMES, OBJECTS

SYLLABLES = [c + v for c in "b d f g k l m n p r s t v z sh tr st".split() for v in "a e i o u an el or in".split()]


def odd_word(rng) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3)))


def word(rng) -> str:
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(OBJECTS)
    if kind < 0.6:
        return rng.choice(NAMES)
    return odd_word(rng)


def repeated(rng) -> str:
    words = [word(rng) for _ in range(rng.randint(4, 14))]
    line = " ".join(words)
    return f"{line}. {line}. {line}."


def owners(rng) -> str:
    names = rng.sample(NAMES, 3)
    things = [(rng.choice(COLOURS), rng.choice(OBJECTS)) for _ in names]
    told = [f"{n} has a {c} {t}." for n, (c, t) in zip(names, things)]
    order = rng.sample(range(3), 3)
    asked = [f"What does {names[i]} have? {names[i]} has a {things[i][0]} {things[i][1]}." for i in order]
    return " ".join(told + asked)


def echo_name(rng) -> str:
    name = person(rng)
    return f'"My name is {name}." "Nice to meet you, {name}!" "What is my name?" "Your name is {name}."'


def person(rng) -> str:
    return rng.choice(NAMES) if rng.random() < 0.7 else odd_word(rng).capitalize()


def count_up(rng) -> str:
    low = rng.randint(0, 12)
    return ", ".join(str(i) for i in range(low, low + rng.randint(3, 12))) + ". Done."


def passage(rng) -> str:
    return rng.choice([repeated, repeated, repeated, owners, echo_name])(rng)


def random_tokens(rng, low: int, high: int, length: int) -> list:
    """A random run of token ids, twice: pure induction."""
    part = [rng.randrange(low, high) for _ in range(rng.randint(8, length // 2))]
    return part + part
