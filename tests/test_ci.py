"""What .ci/debian installs, with a package manager that only writes down how it was called."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "debian"

DPKG_QUERY = """#!/bin/sh
for package; do :; done
case $package in
  there) printf installed;;
  removed) printf config-files;;
  *) exit 1;;
esac
"""


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine with the programs of one folder; its apt-get writes down what it is asked for."""

    programs: Path

    def run(self, *packages: str) -> subprocess.CompletedProcess[str]:
        call = ["/bin/bash", str(SCRIPT), *packages]
        return subprocess.run(call, env={"PATH": str(self.programs)}, capture_output=True, text=True, check=False)

    def asked(self) -> list[str]:
        return (self.programs / "asked").read_text().splitlines()


@pytest.fixture
def debian(tmp_path) -> Machine:
    apt_get = f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
    for name, text in {"dpkg-query": DPKG_QUERY, "apt-get": apt_get, "id": "#!/bin/sh\necho 0\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").touch()
    return Machine(tmp_path)


def test_only_what_is_missing_is_installed(debian):
    done = debian.run("there", "new", "removed")
    assert done.returncode == 0, done.stderr
    assert debian.asked() == ["update -qq", "install -y -qq --no-install-recommends new removed"]


@pytest.mark.parametrize("packages", [(), ("there",)])
def test_nothing_is_asked_for_where_all_is_there(debian, packages):
    done = debian.run(*packages)
    assert (debian.asked(), done.returncode, done.stderr) == ([], 0, "")


def test_elsewhere_it_says_what_is_needed(debian):
    (debian.programs / "apt-get").unlink()
    done = debian.run("new", "other")
    assert done.returncode == 1
    assert "no apt-get here; install what Debian has in the packages new other" in done.stderr
