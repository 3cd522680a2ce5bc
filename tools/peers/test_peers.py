"""What of the comparison needs no other engine: python3 -m unittest discover -s tools/peers"""

import importlib.machinery
import importlib.util
import json
import pathlib
import unittest

import cells
import runs
import streams

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOADER = importlib.machinery.SourceFileLoader("bench_peers", str(ROOT / "bench-peers"))
SPEC = importlib.util.spec_from_loader("bench_peers", LOADER)
bench_peers = importlib.util.module_from_spec(SPEC)
LOADER.exec_module(bench_peers)

SETUP = cells.Setup(pathlib.Path("bin"), pathlib.Path("hadal"), 1, pathlib.Path("clock.so"), ["-lm", "none", "--no-repack"], [])
MODEL = pathlib.Path("a.gguf")


class Peers(unittest.TestCase):
    def test_cells_are_read(self):
        self.assertEqual(cells.Cell.parse("pp512"), cells.Cell("pp512", prompt=512))
        self.assertEqual(cells.Cell.parse("b1@2048"), cells.Cell("b1@2048", batch=1, context=2048))
        for wrong in ["b0", "tg32", "b1@", "pp512@3", ""]:
            self.assertRaises(ValueError, cells.Cell.parse, wrong)

    def test_both_engines_are_told_the_same(self):
        theirs = cells.llama_command(SETUP, MODEL, cells.Cell.parse("b4"))
        self.assertEqual([theirs[theirs.index(flag) + 1] for flag in ("-npp", "-ntg", "-npl")], ["16", "32", "4"])
        ours = cells.hadal_command(SETUP, MODEL, cells.Cell.parse("b4"))
        self.assertEqual([ours[ours.index(flag) + 1] for flag in ("--context", "--tokens", "--batch")], ["16", "32", "4"])
        self.assertIn("--cpu-clock", ours)
        lone = cells.llama_command(SETUP, MODEL, cells.Cell.parse("b1@2048"))
        self.assertEqual(lone[lone.index("-d") + 1], "2048")
        self.assertEqual(lone[-4:], ["-lm", "none", "--repack", "0"])

    def test_speeds_are_found(self):
        self.assertEqual(cells.llama_speed(cells.Cell.parse("pp512"), '[{"avg_ts": 3.5}]'), 3.5)
        self.assertEqual(cells.llama_speed(cells.Cell.parse("b4"), 'noise\n{"speed_tg": 7.0}\n'), 7.0)
        figure = {"tokens_per_second": {"median": 2.0}}
        self.assertEqual(cells.hadal_speed(cells.Cell.parse("b4"), json.dumps({"decode": [figure]})), 2.0)
        self.assertRaises(ValueError, cells.hadal_speed, cells.Cell.parse("b4"), '{"decode": []}')

    def test_a_ratio_is_the_median_of_the_rounds_where_both_ran(self):
        speeds = [("llama.cpp", 0, 10.0), ("hadal", 0, 20.0), ("llama.cpp", 1, 10.0), ("hadal", 1, 40.0), ("hadal", 2, 90.0), ("llama.cpp", 2, None)]
        records = [{"engine": e, "round": r, "tokens_per_second": s, "model": "a", "cell": "b1", "others": 0.5} for e, r, s in speeds]
        self.assertEqual(bench_peers.table(records).splitlines()[-1], "| a | b1 | 10.0 | 40.0 | 3.00 | 2 | 50% |")

    def test_percentiles_and_what_fails(self):
        self.assertEqual(streams.percentile([4.0, 1.0, 2.0, 3.0], 50), 2.5)
        self.assertEqual(streams.percentile([5.0], 95), 5.0)
        self.assertEqual(runs.run(["echo", "word"]).out, "word\n")
        for command in (["false"], ["no-such-program"]):
            self.assertRaises(runs.Failed, runs.run, command)


if __name__ == "__main__":
    unittest.main()
