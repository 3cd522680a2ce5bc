"""A small grammar of children's stories. Subject and object are named at once and come back at the end."""
from facts import a, capital

ANIMAL_HEROES = """fox rabbit bear mouse owl frog cat dog duck hen goat horse wolf lion turtle squirrel hedgehog deer
crow pig cow sheep elephant monkey tiger bee snail robin beaver otter badger penguin whale dragon""".split()
OBJECTS = """lamp key ball kite boat book cup hat coat drum bell box map shell stone feather apple pear cake pie bread
spoon bowl basket ladder rope wheel cart chair table blanket pillow candle mirror ring coin crown flute violin pencil
brush bucket shovel hammer lantern scarf glove boot sock button umbrella bag bottle jar plate carrot pumpkin flower
rose seed leaf acorn nut egg nest star whistle puppet doll train sled swing tent flag letter picture clock""".split()
NAMES = """Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olivia Paul Rosa Sam Tina Victor Wendy
Zoe Adam Bella Carl Daisy Eric Fiona George Hannah Ivan Julia Karl Lily Max Nina Oscar Penny Robert Sara Tom Una Vera
Will Alice Bruno Cora Dan Elsa Frank Gina Hugo Iris James Kim Laura Mark Nora Otto Peter Ruth Simon Tara Walter Ella
Lucas Maya Oliver Ruby Theo Amy Billy Carol Dora Eva Fred Gabriel Helen Isaac Jane Kevin Linda Martin Nick Pia Ralph
Sophie Tim Ursula Vincent Yara Alan Boris Celia Derek Edith Flora Gordon Hilda Igor Joan Kurt Lena Miles Nelly Owen
Polly Quentin Rita Stella Toby Viola Wanda Xavier Yvonne Zack Abby Basil Chloe Doris Elliot Faye Gus Hazel Ian Jade
Kay Liam Molly Ned Opal Pam Rex Sally Ted Vince Wes Andrew Beth Colin Diana Edgar Gloria Harry Irene John Karen Louis
Mary Norman Olga Patrick Rachel Steven Teresa Una Violet William Arthur Brenda Charles Dennis Emily Florian Greta Heidi
Jonas Klara Lukas Marta Nils Petra Rudolf Sven Tilda Ulla Viktor Wilma Aria Blake Cody Drew Eden Finn Gemma Holly Jude
Kara Logan Mason Naomi Piper Quinn Riley Sean Tess Vivian Wyatt Zelda""".split()
PLACES = ["a quiet village", "a green forest", "a small house by the sea", "a warm valley", "an old mill",
          "a sunny meadow", "a little town", "an old farm"]
TRAITS = "little clever brave kind curious happy shy young gentle funny".split()
COLOURS = "red blue green yellow white golden silver brown".split()
HE = {True: ("she", "her"), False: ("he", "his")}
BOYS = set("Henry Harry Toby Billy Andrew George Jude Blake Wyatt Jake Mike Isaac Luke Theo Felix Ned Ricky Gary Jeremy Stanley Sidney Harvey Percy Roy Ray Guy Luca Kay Steve Joe Pete Dave Dale Vince".split())


def setting(rng, hero):
    place, trait = rng.choice(PLACES), rng.choice(TRAITS)
    kind = hero if hero in NAMES else f"a {trait} {hero}"
    return rng.choice([f"Once upon a time, there was {kind} who lived in {place}.",
                       f"In {place}, there lived {kind}.", f"Once there was {kind} in {place}.",
                       f"Long ago, {kind} lived in {place}."])


def lost(rng, s):
    return [f"{s.The} loved {s.its} {s.colour} {s.thing} very much.", f"One day, the {s.thing} was gone.",
            rng.choice([f'"Where is my {s.thing}?" {s.he} cried.', f'"Oh no!" said {s.the}. "My {s.thing} is lost!"']),
            f"{s.friend} heard the cry and came to help.", f"They looked under the bed and behind the door.",
            rng.choice([f"At last, they found the {s.thing} under a big tree.",
                        f"Then they saw the {s.thing} in the tall grass.",
                        f"At last, {s.friend} saw the {s.thing} near the river."]),
            rng.choice([f'"Thank you, {s.friend}!" said {s.the}.', f"{s.The} was so happy and hugged {s.friend}."]),
            f"From that day on, {s.the} took good care of the {s.thing}."]


def gift(rng, s):
    return [f"{s.The} wanted to give a {s.colour} {s.thing} to {s.friend}.",
            rng.choice([f"It was the birthday of {s.friend}.", f"{s.friend} had been sad for many days."]),
            f"But it began to rain, and the road was long.",
            rng.choice([f'"I will not stop," said {s.the}.', f'"A little rain is not so bad," said {s.the}.']),
            f"{s.The} walked and walked until {s.he} came to the house of {s.friend}.",
            f'"This {s.thing} is for you," said {s.the}.',
            rng.choice([f"{s.friend} smiled and laughed.", f'"What a lovely {s.thing}!" said {s.friend}.']),
            f"They played with the {s.thing} together all day."]


def share(rng, s):
    return [f"One day, {s.the} found a {s.colour} {s.thing} near the river.",
            f'{s.friend} saw it too. "I want the {s.thing}!" said {s.friend}.',
            rng.choice([f'"No, it is mine!" said {s.the}.', f'"I saw it first," said {s.the}.']),
            f"They were angry and went home.", rng.choice([f"That night, {s.the} could not sleep.",
                                                             f"{s.The} felt very alone."]),
            f'In the morning, {s.the} went to {s.friend}. "I am sorry," {s.he} said. "Let us share."',
            f"{s.friend} smiled.", f"After that, they shared the {s.thing} and were good friends."]


def help_(rng, s):
    return [f"{s.The} had a {s.colour} {s.thing}.", f"One morning, {s.the} heard a small voice.",
            f'"Help me!" said the voice. It was {s.friend}, who was stuck in the mud.',
            rng.choice([f"{s.The} was afraid, but {s.he} did not run away.", f"{s.The} thought for a moment."]),
            f"Then {s.the} had an idea and used the {s.thing} to pull.",
            f"{s.He} pulled and pulled, and at last {s.friend} was free.",
            rng.choice([f'"You saved me!" said {s.friend}.', f'"You are very brave," said {s.friend}.']),
            f"That evening, they sat by the fire and the {s.thing} lay between them."]


def make(rng, s):
    return [f"More than anything, {s.the} wanted a {s.colour} {s.thing}.", f"But {s.he} had no money.",
            f'"You can make one," said {s.friend}. "I will show you how."',
            rng.choice(["They worked all day and all night.", "They worked for three days."]),
            rng.choice(["The first try was bad, and the second was not much better.", "At first, nothing went well."]),
            f'"Do not give up," said {s.friend}.', f"In the end, the {s.thing} was ready.",
            f"{s.The} was proud, for it was the best {s.thing} of all."]


class Scene:
    def __init__(self, rng, hero, thing):
        named = hero in NAMES
        self.the = hero if named else f"the {hero}"
        self.The = capital(self.the)
        girl = named and hero[-1] in "aey" and hero not in BOYS
        self.he, self.its = HE[girl]
        self.He = capital(self.he)
        self.thing, self.colour = thing, rng.choice(COLOURS)
        self.friend = rng.choice([n for n in rng.sample(NAMES, 3) if n != hero])


ENDS = ["The end.", "And they were happy.", "It was a good day.", ""]


def story(rng, hero=None, thing=None) -> str:
    hero = hero or rng.choice(ANIMAL_HEROES if rng.random() < 0.65 else NAMES)
    thing = thing or rng.choice(OBJECTS)
    scene = Scene(rng, hero, thing)
    lines = [setting(rng, hero)] + rng.choice([lost, gift, share, help_, make])(rng, scene) + [rng.choice(ENDS)]
    text = " ".join(line for line in lines if line)
    return text.replace(" a orange", " an orange")


def request(rng):
    """(question, answer, hero, thing) of a story asked for by name."""
    hero = rng.choice(ANIMAL_HEROES if rng.random() < 0.7 else NAMES)
    thing = rng.choice(OBJECTS)
    who = hero if hero in NAMES else a(hero)
    kind = rng.random()
    if kind < 0.75:
        ask = rng.choice(["Tell me a story about {} and {}.", "Can you tell me a story about {} and {}?",
                          "Write a story about {} and {}.", "I want a story about {} and {}.",
                          "Please tell a story with {} and {}.", "Tell me a short story about {} and {}."])
        return ask.format(who, a(thing)), story(rng, hero, thing), hero, thing
    if kind < 0.9:
        ask = rng.choice(["Tell me a story about {}.", "Write a story about {}.", "A story about {}, please."])
        return ask.format(who), story(rng, hero), hero, None
    ask = rng.choice(["Tell me a story.", "Can you tell me a story?", "Please tell me a story.", "Write a story."])
    return ask, story(rng), None, None
