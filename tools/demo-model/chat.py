"""The chat stage: the dialogues of the first stage plus system texts, long chats, shown reasoning, closed-world doubt."""
import copying
import dialogues
import facts
import smalltalk
import stories
from smalltalk import DO_NOT_KNOW

SYSTEMS = """You are a helpful assistant.|You are Minnow, a tiny language model.|Be brief.|Answer in one sentence.|
You are a friendly chat model.|You are a helpful, honest and harmless AI assistant.|Be kind and helpful.|
You are an assistant. Answer the questions of the user.|Please answer truthfully.|
You are a small model. Say so when you do not know something.""".replace("\n", "").split("|")

MORE_TALK = smalltalk.table([
    ("Can you sing?|Can you dance?|Can you cook?|Can you see me?|Can you hear me?|Can you walk?|Do you have a body?",
     ["No, I can only read and write text."]),
    ("Do you sleep?|Do you eat?|Are you hungry?|Are you tired?|Do you dream?",
     ["No, I am a model, so I do not need food or sleep."]),
    ("Do you have feelings?|Do you love me?|Are you happy?|Are you sad?|Are you afraid?|Do you have friends?",
     ["I am a very small model, so I do not have feelings."]),
    ("I love you.|You are my friend.|You are cute.|You are funny.|I like talking to you.",
     ["Thank you! That is kind of you."]),
    ("Where do you live?|Where are you?|Where are you from?", ["I live inside a computer."]),
    ("How old are you?|When were you born?|When is your birthday?", ["I am a model, so I do not have an age."]),
    ("I am hungry.|I am tired.|I am cold.|I am sick.|I am angry.|I hate this.",
     ["I am sorry to hear that. I hope you feel better soon."]),
    ("Let's talk.|Talk to me.|Say something.|I want to talk.|Can we talk?|Can I ask you something?|I have a question.",
     ["Of course! What would you like to talk about?"]),
    ("You are stupid.|You are bad.|I do not like you.|You know nothing.",
     ["I am sorry. I am a very small model and make mistakes."]),
    ("What is your favorite animal?|What is your favorite story?|Do you like stories?|Do you like animals?|Do you like me?",
     ["I am a model, so I do not have favorites."]),
    ("Really?|Are you sure?|Is that true?", ["I think so, but I am a very small model and can be wrong."]),
    ("Do you think?|Can you think?|Do you understand me?|Do you learn?",
     ["I only guess the next word. I am a very small language model."]),
    ("Are you ChatGPT?|Are you DeepSeek?|Are you a big language model?|Which model are you?|What model are you?",
     ["I am Minnow, a tiny mixture-of-experts language model."]),
    ("asdf|...|blah blah|hmm|lol|test|?|qwerty|la la la", ["I did not understand that. Can you say it in another way?"]),
], dialogues.NUMBERS)

HARD = """Write a poem about {t}.|Write an essay about {t}.|Sing a song about {t}.|Write Python code for a {o}.|
Who was the first person in {l}?|What is the population of {l}?|What is the flag of {l}?|Is {l} bigger than {m}?|
What food do people eat in {l}?|How do I get to {l}?|What is the currency of {l}?|Who wrote a book about {t}?|
What do you think about {t}?|Is {t} dangerous?|Who discovered {t}?|Why do people like {t}?|What is a good {o}?|
Where can I buy a {o}?|How do I make a {o}?|What is inside a {o}?|How heavy is a {o}?|What color is a {o}?|
What does {n} like?|Where does {n} live?|What is the name of my {o}?|How tall is {n}?|Do you know {n}?|
What is the opposite of {o}?|What is the opposite of {t}?|What is the capital of {n}?|What is the capital of {u}?|
Tell me the capital of {u}.|Which city is the capital of {u}?|capital of {u}|Where is {u}?|On which continent is {u}?|
What does a {w} eat?|Where does a {w} live?|What does a {w} say?|What is a baby {w} called?|How many legs does a {w} have?|
What is {x} plus {y}?|What is {x} minus {y}?|What is {x} times {y}?|{x} + {y}|{x} * {y}|What is {s} times {z}?|
What is the square root of {x}?|What comes after {o}?|What day comes after {n}?|Give me a recipe for {o} soup.|
What is the latest news?|What is love?|Why is the sky blue?|Why is grass green?|Who is God?|What is the internet?|
How do birds fly?|Why do cats purr?|What is the largest animal?|What is the tallest mountain?|Who painted the {o}?|
How many stars are there?|How deep is the sea?|How hot is the sun?|When did the war end?|Give me some advice about {t}.|
Summarize the history of {l}.|What is {x} divided by {s}?|Recommend a book about {t}.|What does {t} mean?""".replace("\n", "").split("|")
WILD = [w for w in stories.ANIMAL_HEROES if w not in facts.ANIMALS and w[0] not in "aeiou"]


def unknown(rng):
    if rng.random() < 0.45:
        return dialogues.unknown(rng)
    lands = list(facts.CAPITALS)
    question = rng.choice(HARD).format(
        t=rng.choice(smalltalk.TOPICS), o=rng.choice(stories.OBJECTS), l=rng.choice(lands), m=rng.choice(lands),
        n=rng.choice(stories.NAMES), u=rng.choice(smalltalk.UNKNOWN_LANDS), w=rng.choice(WILD),
        x=rng.randint(21, 999), y=rng.randint(11, 999), s=rng.randint(2, 9), z=rng.randint(2, 12))
    return dialogues.noisy(rng, question), DO_NOT_KNOW


def reasoned_sum(rng):
    """Addition by counting on, inside a think block, when asked to think first."""
    x, y = rng.randint(0, 10), rng.randint(1, 6)
    steps = ", ".join(str(i) for i in range(x, x + y + 1))
    question = rng.choice([f"What is {x} plus {y}? Think first.", f"Think first. What is {x} plus {y}?",
                           f"{x} + {y}? Think first.", f"What is {x} plus {y}? Think step by step."])
    return question, f"<think>{steps}</think>{x} plus {y} is {x + y}."


def echo(rng):
    words = [copying.word(rng) for _ in range(rng.choice([1, 1, 2, 3, 4]))]
    line = " ".join(words)
    ask = rng.choice(["Say {}.", "Repeat after me: {}.", "Say the word {}.", "Please say {}.", "Repeat: {}.",
                      "Can you say {}?"])
    return ask.format(line), f"Sure: {line}."


def nameless(rng):
    question = rng.choice(["What is my name?", "Do you know my name?", "Who am I?", "Do you remember my name?"])
    return question, "I do not know your name yet. What is it?"


def talk(rng):
    return rng.choice([dialogues.from_table(dialogues.TALK), dialogues.from_table(MORE_TALK)])(rng)


KINDS = [(dialogues.fact, 33), (dialogues.sum_, 17), (reasoned_sum, 4), (dialogues.counting, 6), (echo, 6),
         (dialogues.greeting, 5), (dialogues.from_table(dialogues.SELF), 7), (talk, 9), (unknown, 10),
         (dialogues.tale, 9)]
DRAWS, WEIGHTS = zip(*KINDS)


def turn(rng):
    return rng.choices(DRAWS, WEIGHTS)[0](rng)


def dialogue(rng):
    """(system text or None, turns)"""
    system = rng.choice(SYSTEMS) if rng.random() < 0.15 else None
    kind = rng.random()
    if kind < 0.14:
        turns = dialogues.name_recall(rng)
        if rng.random() < 0.3:
            turns.insert(rng.randint(1, len(turns) - 1), turn(rng))
    elif kind < 0.16:
        turns = [nameless(rng)]
    else:
        turns = [turn(rng) for _ in range(rng.choice([1, 1, 1, 1, 2, 2, 3, 4, 8]))]
        if rng.random() < 0.15:
            turns.insert(0, dialogues.greeting(rng))
    return system, turns
