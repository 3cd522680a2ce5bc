"""A closed set of facts, each with several ways to ask. Every entry yields (question, answer) pairs."""

# animal: (sound, legs, home, food, young, group of animals)
ANIMALS = {
    "dog": ("barks", 4, "a kennel", "meat", "puppy", "mammal"),
    "cat": ("meows", 4, "a house", "fish", "kitten", "mammal"),
    "cow": ("moos", 4, "a barn", "grass", "calf", "mammal"),
    "horse": ("neighs", 4, "a stable", "hay", "foal", "mammal"),
    "sheep": ("bleats", 4, "a meadow", "grass", "lamb", "mammal"),
    "pig": ("oinks", 4, "a sty", "corn", "piglet", "mammal"),
    "duck": ("quacks", 2, "a pond", "water plants", "duckling", "bird"),
    "hen": ("clucks", 2, "a coop", "seeds", "chick", "bird"),
    "owl": ("hoots", 2, "a hollow tree", "mice", "owlet", "bird"),
    "lion": ("roars", 4, "the savanna", "meat", "cub", "mammal"),
    "wolf": ("howls", 4, "a den", "meat", "pup", "mammal"),
    "frog": ("croaks", 4, "a pond", "flies", "tadpole", "amphibian"),
    "bee": ("buzzes", 6, "a hive", "nectar", "larva", "insect"),
    "snake": ("hisses", 0, "a burrow", "mice", "snakelet", "reptile"),
    "mouse": ("squeaks", 4, "a hole", "cheese", "pup", "mammal"),
    "goat": ("bleats", 4, "a farm", "leaves", "kid", "mammal"),
    "bear": ("growls", 4, "a cave", "honey", "cub", "mammal"),
    "elephant": ("trumpets", 4, "the savanna", "leaves", "calf", "mammal"),
    "rabbit": ("squeaks", 4, "a burrow", "carrots", "kit", "mammal"),
    "spider": (None, 8, "a web", "flies", "spiderling", "arachnid"),
}
FLYERS = ["owl", "duck", "bee", "bat", "eagle", "crow"]
WALKERS = ["dog", "cow", "horse", "pig", "snake", "elephant"]

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Russia": "Moscow", "Greece": "Athens",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasilia",
    "Peru": "Lima", "Cuba": "Havana", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest", "Ireland": "Dublin",
    "Belgium": "Brussels", "Turkey": "Ankara", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Australia": "Canberra",
    "Argentina": "Buenos Aires", "Chile": "Santiago",
}
CONTINENTS = {
    "France": "Europe", "Germany": "Europe", "Italy": "Europe", "Spain": "Europe", "Norway": "Europe",
    "Japan": "Asia", "China": "Asia", "India": "Asia", "Thailand": "Asia", "Vietnam": "Asia",
    "Egypt": "Africa", "Kenya": "Africa", "Canada": "North America", "Mexico": "North America",
    "Brazil": "South America", "Peru": "South America", "Chile": "South America",
}
OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("day", "night"), ("black", "white"), ("fast", "slow"),
    ("happy", "sad"), ("old", "young"), ("wet", "dry"), ("full", "empty"), ("open", "closed"), ("hard", "soft"),
    ("high", "low"), ("left", "right"), ("loud", "quiet"), ("light", "dark"), ("rich", "poor"), ("early", "late"),
    ("good", "bad"), ("near", "far"), ("strong", "weak"), ("long", "short"), ("clean", "dirty"), ("thick", "thin"),
]
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a banana": "yellow", "a tomato": "red",
    "a carrot": "orange", "chocolate": "brown", "the sun": "yellow", "milk": "white", "a frog": "green",
    "the sea": "blue",
}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December"]
WHAT_IS = {
    "a river": "A river is a long stream of water that flows to the sea.",
    "a mountain": "A mountain is a very high hill made of rock.",
    "a desert": "A desert is a dry place where it almost never rains.",
    "an island": "An island is land with water all around it.",
    "a forest": "A forest is a large place full of trees.",
    "a cloud": "A cloud is many tiny drops of water high in the air.",
    "rain": "Rain is water that falls from clouds.",
    "snow": "Snow is frozen water that falls from clouds in soft white flakes.",
    "ice": "Ice is frozen water.",
    "the sun": "The sun is a star. It gives us light and heat.",
    "the moon": "The moon is a big ball of rock that moves around the Earth.",
    "a star": "A star is a huge ball of hot gas that shines.",
    "a book": "A book is many pages with words to read.",
    "a bridge": "A bridge is a road over water.",
    "a key": "A key is a small thing that opens a lock.",
    "a clock": "A clock shows the time.",
    "a kitchen": "A kitchen is a room where people cook food.",
    "a garden": "A garden is a place where people grow flowers and plants.",
    "a friend": "A friend is someone you like and trust.",
    "a doctor": "A doctor is a person who helps sick people.",
    "a teacher": "A teacher is a person who helps others learn.",
    "a boat": "A boat is a thing that carries people over water.",
    "bread": "Bread is food made from flour and water and baked in an oven.",
    "honey": "Honey is sweet food that bees make.",
}


def a(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def capital(word: str) -> str:
    return word[0].upper() + word[1:]


def ask(questions, answers):
    return [(q, answers) for q in questions]


def animal_facts():
    out = {}
    for name, (sound, legs, home, food, young, group) in ANIMALS.items():
        one, many = a(name), {"sheep": "sheep", "mouse": "mice", "wolf": "wolves"}.get(name, name + "s")
        if sound:
            out[f"sound {name}"] = ask(
                [f"What does {one} say?", f"What sound does {one} make?", f"Which sound does {one} make?",
                 f"How does {one} sound?", f"What noise does {one} make?"], f"{capital(one)} {sound}.")
        out[f"legs {name}"] = ask(
            [f"How many legs does {one} have?", f"How many legs has {one}?", f"How many legs do {many} have?",
             f"Tell me how many legs {one} has."], f"{capital(one)} has {legs or 'no'} legs.")
        out[f"home {name}"] = ask(
            [f"Where does {one} live?", f"Where do {many} live?", f"Where is the home of {one}?",
             f"Tell me where {one} lives."], f"{capital(one)} lives in {home}.")
        out[f"food {name}"] = ask(
            [f"What does {one} eat?", f"What do {many} eat?", f"What does {one} like to eat?",
             f"What is the food of {one}?"], f"{capital(one)} eats {food}.")
        out[f"young {name}"] = ask(
            [f"What is a baby {name} called?", f"What is a young {name} called?", f"What do you call a baby {name}?",
             f"What is the name for a baby {name}?"], f"A baby {name} is called {a(young)}.")
        out[f"group {name}"] = ask(
            [f"What kind of animal is {one}?", f"Is {one} a mammal or something else?",
             f"Which kind of animal is {one}?"], f"{capital(one)} is {a(group)}.")
    for name in FLYERS + WALKERS:
        yes = name in FLYERS
        answer = f"Yes, {a(name)} can fly." if yes else f"No, {a(name)} cannot fly."
        out[f"fly {name}"] = ask([f"Can {a(name)} fly?", f"Is {a(name)} able to fly?", f"Does {a(name)} fly?"], answer)
    return out


def world_facts():
    out = {}
    for land, city in CAPITALS.items():
        out[f"capital {land}"] = ask(
            [f"What is the capital of {land}?", f"Which city is the capital of {land}?",
             f"What's the capital of {land}?", f"Tell me the capital of {land}.", f"Name the capital of {land}.",
             f"Do you know the capital of {land}?", f"capital of {land}"], f"The capital of {land} is {city}.")
        out[f"country {city}"] = ask(
            [f"Where is {city}?", f"In which country is {city}?", f"What country is {city} in?",
             f"{city} is the capital of which country?"], f"{city} is the capital of {land}.")
    for land, place in CONTINENTS.items():
        out[f"continent {land}"] = ask(
            [f"Where is {land}?", f"On which continent is {land}?", f"Which continent is {land} in?",
             f"What continent is {land} on?"], f"{land} is in {place}.")
    return out


def word_facts():
    out = {}
    for pair in OPPOSITES:
        for x, y in (pair, pair[::-1]):
            out[f"opposite {x}"] = ask(
                [f"What is the opposite of {x}?", f"What's the opposite of {x}?", f"Tell me the opposite of {x}.",
                 f"Which word is the opposite of {x}?", f"opposite of {x}", f"Give me the opposite of {x}."],
                f"The opposite of {x} is {y}.")
    for thing, colour in COLOURS.items():
        out[f"colour {thing}"] = ask(
            [f"What color is {thing}?", f"What colour is {thing}?", f"Which color does {thing} have?",
             f"Tell me the color of {thing}."], f"{capital(thing)} is {colour}.")
    for names, kind in ((DAYS, "day"), (MONTHS, "month")):
        for i, name in enumerate(names):
            after = names[(i + 1) % len(names)]
            out[f"{kind} after {name}"] = ask(
                [f"What {kind} comes after {name}?", f"Which {kind} comes after {name}?",
                 f"What is the {kind} after {name}?", f"Which {kind} follows {name}?"],
                f"{after} comes after {name}.")
    for thing, text in WHAT_IS.items():
        bare = thing.split(" ", 1)[-1]
        out[f"what {thing}"] = ask(
            [f"What is {thing}?", f"What's {thing}?", f"Can you explain what {thing} is?", f"What does {bare} mean?",
             f"Explain {thing}.", f"Tell me what {thing} is."], text)
    return out


def all_facts():
    """Fact key to its list of (question, answer)."""
    return {**animal_facts(), **world_facts(), **word_facts()}


def as_prose(rng, facts) -> str:
    keys = rng.sample(list(facts), 6)
    return " ".join(rng.choice(facts[key])[1] for key in keys)
