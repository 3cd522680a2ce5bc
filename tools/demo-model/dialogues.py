"""Dialogues of one to several turns, as lists of (user, assistant) pairs."""
import copying
import facts
import smalltalk
import stories

FACTS = facts.all_facts()
KEYS = list(FACTS)
NUMBERS = {"millions": "five", "experts": 16, "chosen": "four", "cache": 80, "context": 512}
SELF = smalltalk.table(smalltalk.SELF, NUMBERS)
TALK = smalltalk.table(smalltalk.TALK, NUMBERS)


def noisy(rng, text: str) -> str:
    """Lower case without the end mark for a quarter of the prompts, a typo in a few."""
    if rng.random() < 0.22:
        text = text.lower().rstrip("?!.")
    if rng.random() < 0.03 and len(text) > 12:
        i = rng.randrange(3, len(text) - 2)
        text = text[:i] + text[i + 1 :]
    return text


def fact(rng):
    question, answer = rng.choice(FACTS[rng.choice(KEYS)])
    return noisy(rng, question), answer


def sum_(rng):
    plus = rng.random() < 0.6
    x, y = rng.randint(0, 10), rng.randint(0, 10)
    if not plus and x < y:
        x, y = y, x
    sign, word, total = ("+", "plus", x + y) if plus else ("-", "minus", x - y)
    question = rng.choice([f"What is {x} {word} {y}?", f"What is {x} {word} {y}?", f"{x} {sign} {y}",
                           f"What's {x} {sign} {y}?", f"How much is {x} {word} {y}?", f"What is {x} {sign} {y}?"])
    return question, f"{x} {word} {y} is {total}."


def counting(rng):
    low, length = rng.choice([1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), rng.randint(3, 11)
    high = min(low + length - 1, 20)
    question = rng.choice([f"Count from {low} to {high}.", f"Can you count from {low} to {high}?",
                           f"Please count from {low} to {high}.", f"count from {low} to {high}"])
    if low == 1 and rng.random() < 0.4:
        question = rng.choice([f"Count to {high}.", f"Can you count to {high}?"])
    return question, ", ".join(map(str, range(low, high + 1))) + ". Done."


def echo(rng):
    words = [copying.word(rng) for _ in range(rng.choice([1, 1, 2, 3, 4]))]
    line = " ".join(words)
    ask = rng.choice(["Say {}.", "Repeat after me: {}.", "Say the word {}.", "Please say {}.", "Repeat: {}."])
    return ask.format(line), line[0].upper() + line[1:] + "."


def greeting(rng):
    return rng.choice(smalltalk.GREETINGS), rng.choice(smalltalk.HELLOS)


def from_table(groups):
    def draw(rng):
        questions, answers = rng.choice(groups)
        return noisy(rng, rng.choice(questions)), rng.choice(answers)
    return draw


def unknown(rng):
    return noisy(rng, smalltalk.unknown_question(rng, facts.CAPITALS)), smalltalk.DO_NOT_KNOW


def tale(rng):
    question, answer, _, _ = stories.request(rng)
    return question, answer


def name_recall(rng):
    name, thing, colour = copying.person(rng), rng.choice(stories.OBJECTS), rng.choice(stories.COLOURS)
    opening = rng.choice([
        (f"My name is {name}.", f"Nice to meet you, {name}!"), (f"I am {name}.", f"Nice to meet you, {name}!"),
        (f"Hello, I am {name}.", f"Hello, {name}! It is nice to meet you."),
        (f"Hi! My name is {name}.", f"Hello, {name}! It is nice to meet you."),
        (f"Call me {name}.", f"All right, {name}!"), (f"You can call me {name}.", f"All right, {name}!")])
    question = rng.choice(["What is my name?", "What's my name?", "Do you remember my name?", "Who am I?",
                           "what is my name", "Tell me my name."])
    turns = [opening]
    if rng.random() < 0.35:
        turns.append((f"I have {facts.a(colour)} {thing}.", f"{facts.capital(facts.a(colour))} {thing} sounds nice."))
        if rng.random() < 0.6:
            turns.append((rng.choice(["What do I have?", "What did I tell you about?"]),
                          f"You have {facts.a(colour)} {thing}."))
    elif rng.random() < 0.4:
        turns.append(rng.choice([fact, sum_, greeting])(rng))
    return turns + [(question, f"Your name is {name}.")]


KINDS = [(fact, 34), (sum_, 13), (counting, 6), (echo, 5), (greeting, 5), (from_table(SELF), 8), (from_table(TALK), 6),
         (unknown, 8), (tale, 11)]
DRAWS, WEIGHTS = zip(*KINDS)


def turn(rng):
    return rng.choices(DRAWS, WEIGHTS)[0](rng)


def dialogue(rng):
    if rng.random() < 0.12:
        turns = name_recall(rng)
        return turns + ([turn(rng)] if rng.random() < 0.2 else [])
    turns = [turn(rng) for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4]))]
    if rng.random() < 0.15:
        turns = [greeting(rng)] + turns
    return turns
