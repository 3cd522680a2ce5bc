"""Train the byte-level BPE: 2,048 entries, digits always single, special tokens in DeepSeek's spelling."""
import argparse
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import copying
import dialogues
import facts
import stories

BOS, EOS, PAD, USER, ASSISTANT = 0, 1, 2, 3, 4
SPECIALS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>"]


def sample(rng):
    yield from stories.NAMES * 20
    yield from (" " + word for word in (stories.NAMES + stories.OBJECTS + stories.ANIMAL_HEROES) * 30)
    for _ in range(3000):
        yield stories.story(rng)
        yield facts.as_prose(rng, dialogues.FACTS)
        for _ in range(3):
            for question, answer in dialogues.dialogue(rng):
                yield question
                yield answer
    yield from (copying.odd_word(rng) for _ in range(300))


def train(path: str) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2048, special_tokens=SPECIALS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(sample(random.Random(1)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[BOS]} $A", special_tokens=[(SPECIALS[BOS], BOS)])
    tokenizer.save(path)
    print("entries", tokenizer.get_vocab_size())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    train(parser.parse_args().out)
