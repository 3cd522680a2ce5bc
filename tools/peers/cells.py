"""The cells of a comparison, each one short process of either engine on the same file.

    pp512      a prompt of 512 tokens                          tokens a second of the prompt
    b1 ... b16 so many sequences that decode 32 tokens each    tokens a second of all of them
    b1@2048    one sequence that holds 2,048 tokens already
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

from runs import Failed, Result, run

# Tokens that each sequence decodes, and that it holds before: what `llama-batched-bench` is told, and so must we be.
DECODED = 32
HELD = 16


@dataclasses.dataclass(frozen=True)
class Cell:
    name: str
    prompt: int = 0
    batch: int = 0
    context: int = 0

    @classmethod
    def parse(cls, word: str) -> Cell:
        found = re.fullmatch(r"pp([1-9]\d*)|b([1-9]\d*)(?:@([1-9]\d*))?", word)
        if not found:
            raise ValueError(f"no cell `{word}`; wanted pp512, b1, b16, b1@2048 and the like")
        prompt, batch, context = (int(number or 0) for number in found.groups())
        return cls(word, prompt, batch, context)


@dataclasses.dataclass
class Setup:
    llama: pathlib.Path  # folder of llama-bench and llama-batched-bench
    hadal: pathlib.Path
    threads: int
    clock: pathlib.Path | None  # cpuclock.so; None counts the wall's time
    llama_args: list[str]
    hadal_args: list[str]


def llama_command(setup: Setup, model: pathlib.Path, cell: Cell) -> list[str]:
    """`llama-bench` for one sequence, `llama-batched-bench` for several: the latter gives each its own random tokens."""
    common = ["-m", str(model), "-t", str(setup.threads)]
    if cell.prompt or cell.batch == 1:
        work = ["-p", str(cell.prompt), "-n", str(0 if cell.prompt else DECODED)]
        depth = ["-d", str(cell.context)] if cell.context else []
        # The one flag that `llama-bench` spells in another way.
        args = [word for given in setup.llama_args for word in (["--repack", "0"] if given == "--no-repack" else [given])]
        return [str(setup.llama / "llama-bench"), *common, *work, *depth, "-r", "1", "-o", "json", *args]
    held = cell.context or HELD
    room = cell.batch * (held + DECODED)
    return [
        str(setup.llama / "llama-batched-bench"), *common, "-tb", str(setup.threads), "-c", str(max(4096, room)),
        "-npp", str(held), "-ntg", str(DECODED), "-npl", str(cell.batch), "--output-format", "jsonl", *setup.llama_args,
    ]  # fmt: skip


def llama_speed(cell: Cell, out: str) -> float:
    if cell.prompt or cell.batch == 1:
        return float(json.loads(out)[-1]["avg_ts"])
    return float(json.loads([line for line in out.splitlines() if line.startswith("{")][-1])["speed_tg"])


def hadal_command(setup: Setup, model: pathlib.Path, cell: Cell) -> list[str]:
    # A lone sequence begins empty in `llama-bench`.
    held = cell.context or (0 if cell.batch == 1 else HELD)
    return [
        str(setup.hadal), "bench", "--model", str(model), "--threads", str(setup.threads), "--json",
        "--prompt-tokens", str(cell.prompt), "--batch", str(cell.batch), "--context", str(held),
        "--tokens", str(DECODED), *(["--cpu-clock"] if setup.clock else []), *setup.hadal_args,
    ]  # fmt: skip


def hadal_speed(cell: Cell, out: str) -> float:
    figures = json.loads(out)["prompt" if cell.prompt else "decode"]
    if not figures:
        raise ValueError("the cell was left out: too long for this model or this memory")
    return float(figures[0]["tokens_per_second"]["median"])


def measure(engine: str, setup: Setup, model: pathlib.Path, cell: Cell) -> dict:
    """One run of one engine, as a record."""
    command, speed = {"llama.cpp": (llama_command, llama_speed), "hadal": (hadal_command, hadal_speed)}[engine]
    record = {"engine": engine, "model": model.name, "cell": cell.name, "threads": setup.threads}
    record |= {"clock": "cpu" if setup.clock else "wall", "tokens_per_second": None}
    try:
        # Our own clock is a flag; theirs is put before it.
        result: Result = run(command(setup, model, cell), setup.clock if engine == "llama.cpp" else None)
        record |= {"others": round(result.others, 3), "wall_s": round(result.wall_s, 2), "cpu_s": round(result.cpu_s, 2)}
        record["tokens_per_second"] = speed(cell, result.out)
    except (Failed, ValueError, KeyError, IndexError, TypeError) as problem:
        record["problem"] = str(problem) or repr(problem)
    return record
