"""The program that is checked, where it is run to its end."""

import json
import subprocess

# It takes milliseconds.
LIMIT_S = 20


class Binary:
    def __init__(self, path):
        self.path = path

    def run(self, *arguments, text=None):
        """Exit code, standard output and standard error; `text` is its standard input. Bytes stay as they
        are, whatever ends the lines."""
        command = [self.path, *arguments]
        sent = None if text is None else text.encode()
        done = subprocess.run(command, input=sent, capture_output=True, timeout=LIMIT_S, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode().strip()

    def check(self, *paths, text=None):
        """How many task definitions `check` has read, and what it says of them in words; `text` stands for
        the path `-`."""
        code, out, error = self.run("check", "--format", "json", *paths, text=text)
        assert code in (0, 1), f"check ended with {code}: {error}"
        report = json.loads(out)
        return report["task_definitions"], [
            f"{f['rule']} {f['file']}:{f['line']}: {f['message']}" for f in report["findings"]
        ]

    def add(self, file, options):
        """Puts the sidecar into `file`: one piece more and every byte of the rest, so that comments and
        intrinsics stay; the same once more changes nothing, and `check` finds nothing new."""
        before = file.read_bytes().decode()
        _, found = self.check(file)
        code, after, error = self.run("add", file, *options)
        assert code == 0, f"add ended with {code}: {error}"
        file.write_bytes(after.encode())
        same = len(common_start(before, after))
        assert len(after) > len(before), "nothing was added"
        assert after.endswith(before[same:]), "more changed than one insertion"
        code, again, error = self.run("add", file, *options)
        assert (code, again) == (0, after), f"a second add is not the same: {error}"
        if not found:
            assert self.check(file)[1] == []


def common_start(one, other):
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:at]
