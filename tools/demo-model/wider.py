"""The last part of the chat stage: the same dialogues, with subjects, objects and echoes from a much wider word list,
so that the model copies what it was given instead of guessing a familiar word."""
import chat
import copying
import dialogues
import facts
import stories

MORE_HEROES = """robot princess king queen knight pirate wizard witch boy girl man woman farmer baker teacher doctor
sailor soldier giant dwarf fairy mermaid unicorn dinosaur monster ghost baby child grandmother clown cook kangaroo
camel zebra giraffe panda koala parrot eagle swan goose turkey shark dolphin octopus crab spider ant butterfly worm
lizard crocodile hamster donkey bull llama moose seal walrus raven pigeon stork hawk""".split()
MORE_THINGS = """castle sword car bicycle house garden computer phone rocket spaceship moon river mountain treasure
diamond sandwich pizza banana tomato potato cookie carpet window door guitar piano camera newspaper magnet balloon
football bridge tower ship airplane island cave potion spell secret dream song dance cloud rainbow snowman pumpkin
cheese soup bone stick rock leash collar saddle fence pond tunnel tractor truck bus ticket suitcase backpack""".split()
ORDINARY = """the a my your his her cat dog sun moon sat ran is was on in under over with and to big small red blue good
old new house tree water fire bread milk day night hello world peace love time happy green fish bird car road sea sky
like want have go come see eat sleep play jump sing walk run very not yes no we you they it this that one two""".split()
PETS = "dog cat rabbit horse bird hamster fish turtle".split()


def anything(rng) -> str:
    return copying.odd_word(rng) if rng.random() < 0.25 else rng.choice(MORE_HEROES + MORE_THINGS + stories.OBJECTS)


def tale(rng):
    if rng.random() < 0.3:
        return dialogues.tale(rng)
    hero = rng.choice(MORE_HEROES if rng.random() < 0.7 else stories.ANIMAL_HEROES + [copying.odd_word(rng)])
    thing = rng.choice(MORE_THINGS if rng.random() < 0.8 else stories.OBJECTS + [copying.odd_word(rng)])
    if rng.random() < 0.75:
        ask = rng.choice(["Tell me a story about {} and {}.", "Can you tell me a story about {} and {}?",
                          "Write a story about {} and {}.", "I want a story about {} and {}.",
                          "tell me a story about {} and {}", "Tell me a short story about {} and {}.",
                          "Make up a story with {} and {}."])
        return ask.format(facts.a(hero), facts.a(thing)), stories.story(rng, hero, thing)
    ask = rng.choice(["Tell me a story about {}.", "tell me a story about {}", "Write a story about {}.",
                      "Can you write a story about {}?"])
    return ask.format(facts.a(hero)), stories.story(rng, hero)


def echo(rng):
    kind = rng.random()
    if kind < 0.35:
        line = " ".join(rng.choice(ORDINARY) for _ in range(rng.randint(2, 7)))
    elif kind < 0.7:
        line = " ".join(anything(rng) for _ in range(rng.randint(1, 4)))
    else:
        return chat.echo(rng)
    ask = rng.choice(["Say {}.", "Repeat after me: {}.", "Say {}", "Please say {}.", "Repeat: {}", "Can you say {}?",
                      "repeat after me: {}", "say {}"])
    return ask.format(line), f"Sure: {line}."


def sum_(rng):
    question, answer = dialogues.sum_(rng)
    x, word, y = answer.split()[:3]
    sign = "+" if word == "plus" else "-"
    if rng.random() < 0.6:
        question = rng.choice([f"{x}{sign}{y}", f"what is {x}{sign}{y}", f"What is {x}{sign}{y}?", f"{x} {word} {y}",
                               f"{x} {sign} {y} = ?", f"{x}{sign}{y}=", f"Can you add {x} and {y}?", f"{x} {sign} {y} ?"])
        if "add" in question:
            answer = f"{x} plus {y} is {int(x) + int(y)}."
    return question, answer


def counting(rng):
    if rng.random() < 0.5:
        return dialogues.counting(rng)
    high = rng.randint(12, 20)
    return rng.choice([f"Count to {high}.", f"count to {high}", f"Can you count to {high}?", f"Count from 1 to {high}."]), \
        ", ".join(map(str, range(1, high + 1))) + ". Done."


def talk(rng):
    name, pet, thing = copying.person(rng), rng.choice(PETS), anything(rng)
    word, other = rng.choice(list(rng.choice(facts.OPPOSITES))), rng.choice(list(facts.CAPITALS))
    reverse = {x: y for pair in facts.OPPOSITES for x, y in (pair, pair[::-1])}
    return rng.choice([
        (rng.choice(["Hi, how are you?", "Hello, how are you?", "hi how are you", "Hey, how are you doing?"]),
         "Hello! I am fine, thank you."),
        (rng.choice(["Hello, who are you?", "hi, who are you?", "hey what are you"]),
         "Hello! I am Minnow, a tiny mixture-of-experts language model."),
        (f"My {pet} is called {name}.", f"{name} is a nice name for a {pet}."),
        (rng.choice([f"I like {thing}s.", f"I love {thing}s.", f"i like {thing}s"]), f"It is nice that you like {thing}s."),
        (rng.choice([f"Opposite of {word}?", f"{word} opposite", f"what is opposite of {word}"]),
         f"The opposite of {word} is {reverse[word]}."),
        (rng.choice([f"And {other}?", f"What about {other}?", f"capital city of {other}?", f"{other} capital"]),
         f"The capital of {other} is {facts.CAPITALS[other]}."),
        (rng.choice(["Can you write code?", "Can you program?", "Write code for me.", "Can you do math?", "Can you draw?"]),
         "I am too small for that. I can do small sums and tell short stories."),
        chat.talk(rng), chat.talk(rng), chat.talk(rng),
    ])


KINDS = [(dialogues.fact, 26), (sum_, 13), (chat.reasoned_sum, 4), (counting, 6), (echo, 15), (dialogues.greeting, 4),
         (dialogues.from_table(dialogues.SELF), 6), (talk, 12), (chat.unknown, 10), (tale, 13)]
DRAWS, WEIGHTS = zip(*KINDS)


def turn(rng):
    return rng.choices(DRAWS, WEIGHTS)[0](rng)


def dialogue(rng):
    """(system text or None, turns)"""
    if rng.random() < 0.16:
        return chat.dialogue(rng)
    system = rng.choice(chat.SYSTEMS) if rng.random() < 0.15 else None
    return system, [turn(rng) for _ in range(rng.choice([1, 1, 1, 1, 2, 2, 3]))]
