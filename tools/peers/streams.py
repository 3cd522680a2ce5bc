"""Clients that stream chat answers from an OpenAI-compatible server, and the server's start and memory."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import threading
import time

from runs import Failed, Others

WORDS = "sea deep water light stone river cold current fish sand wind shore night dark pressure trench ship line".split()


def percentile(values: list[float], percent: float) -> float:
    if not values:
        return float("nan")
    values = sorted(values)
    at = (len(values) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def stream(port: int, words: int, tokens: int, rng: random.Random) -> tuple[float, list[float], dict]:
    """When it was asked, when each piece of text came, and what it cost."""
    text = " ".join(rng.choice(WORDS) for _ in range(words))
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": True, "temperature": 1.0}
    body |= {"top_k": 40, "top_p": 1.0, "min_p": 0.0, "seed": rng.randrange(1 << 30), "stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1800)
    begin, times, usage = time.perf_counter(), [], {}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise Failed(f"status {answer.status}: {answer.read(500)!r}")
        for line in answer:
            if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
                continue
            event = json.loads(line[5:])
            if event.get("error"):
                raise Failed(str(event["error"]))
            usage = event.get("usage") or usage
            if any((choice.get("delta") or {}).get("content") for choice in event.get("choices") or []):
                times.append(time.perf_counter())
    finally:
        connection.close()
    if not times:
        raise Failed("an answer without text")
    return begin, times, usage


class Server:
    """A server of its own process group, from its start to its end."""

    def __init__(self, command: list[str], port: int, ready: str, log: pathlib.Path) -> None:
        self.port, self.begin = port, time.perf_counter()
        with open(log, "w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            self.wait(ready, log)
        except BaseException:
            self.stop()
            raise

    def wait(self, ready: str, log: pathlib.Path, seconds: float = 600) -> None:
        while time.perf_counter() - self.begin < seconds:
            if self.process.poll() is not None:
                raise Failed(f"the server ended with status {self.process.returncode}: {log.read_text()[-500:]}")
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", ready)
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.02)
        raise Failed(f"the server was not ready after {seconds:.0f} s")

    def peak_mb(self) -> float:
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1.024e-3 for line in status.splitlines() if line.startswith("VmHWM"))

    def cpu_s(self) -> float:
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)  # the group that was started here
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def measure(command: list[str], port: int, ready: str, log: pathlib.Path, clients: int, rounds: int, words: range, tokens: int) -> dict:
    """Start to first token, then `clients` clients that ask `rounds` times each."""
    server = Server(command, port, ready, log)
    try:
        _, times, _ = stream(port, 8, 2, random.Random(1))
        record = {"start_to_first_token_s": round(times[0] - server.begin, 3)}
        stream(port, 32, 8, random.Random(2))
        firsts: list[float] = []
        gaps: list[float] = []
        counts: list[tuple[int, int]] = []
        problems: list[str] = []

        def client(number: int) -> None:
            rng = random.Random(100 + number)
            try:
                for _ in range(rounds):
                    begin, times, usage = stream(port, rng.choice(words), tokens, rng)
                    firsts.append(times[0] - begin)
                    gaps.extend(later - earlier for earlier, later in zip(times, times[1:]))
                    counts.append((usage.get("prompt_tokens", 0), usage.get("completion_tokens", len(times))))
            except (Failed, OSError, ValueError, http.client.HTTPException) as problem:
                problems.append(str(problem))

        others, own, begin = Others(), server.cpu_s(), time.perf_counter()
        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begin
        if problems:
            raise Failed(problems[0])
        prompt, output = (sum(column) for column in zip(*counts))
        own = server.cpu_s() - own
        record |= {"requests": len(counts), "prompt_tokens": prompt, "output_tokens": output, "seconds": round(seconds, 2)}
        record |= {"output_tokens_per_second": output / seconds, "output_tokens_per_cpu_second": output / own if own else None}
        record |= {"first_token_p50_s": statistics.median(firsts), "first_token_p95_s": percentile(firsts, 95)}
        record |= {"between_tokens_p50_ms": percentile(gaps, 50) * 1e3, "between_tokens_p95_ms": percentile(gaps, 95) * 1e3}
        return record | {"peak_mb": round(server.peak_mb(), 1), "others": round(others.share(own), 3)}
    finally:
        server.stop()
