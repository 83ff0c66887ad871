"""A root of Debian's packages with the steps of launch/container.py done in it: an image without Docker. Root only.

Commands run in it by chroot, in a mount namespace of their own: its mounts end with the command, so that the folder
can be removed at any time. Where pip finds its packages is this machine's matter: its settings and the files that they
name are handed in.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.smoke.command import ROOT

CHECKOUT = "/mnt/checkout"
# Where files of this machine are shown, and variables that a program without the network's settings would miss.
OURS = "/mnt/ours"
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "ssl_cert_file")
# $0: the root; then pairs of what is shown inside and where; `--`; and the command.
ENTER = """
set -e
root=$0
mount --rbind /dev "$root/dev" && mount -t proc proc "$root/proc" && mount -t tmpfs tmpfs "$root/dev/shm"
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$(dirname "$root$2")"; touch "$root$2"; fi
  mount --bind "$1" "$root$2"; shift 2
done
shift
exec chroot "$root" "$@"
"""


def why_not() -> str:
    """Why there can be no such root on this machine; empty where there can."""
    if os.geteuid() != 0:
        return "a root of Debian's packages needs root"
    missing = [name for name in ("mmdebstrap", "unshare", "chroot") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (.ci/run installs them on Debian and Ubuntu)"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    return f"no mount namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


class ContainerRoot:
    """The folder of a root, and this machine's settings for pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        said = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
        ).stdout
        settings = (line.partition("=") for line in said.splitlines())
        # global.find-links='/a /b' is PIP_FIND_LINKS; what the environment says stands last.
        self._environment = {
            "PIP_" + name.split(".")[-1].upper().replace("-", "_"): shlex.split(value)[0]
            for name, _, value in settings
        }
        for name, value in os.environ.items():
            if name.startswith("PIP_") or name.lower() in PASSED_ON:
                self._environment[name] = value
        # As every container runtime does: names of hosts are this machine's.
        self._shown = {name: name for name in ("/etc/resolv.conf", "/etc/hosts")}
        self._shown[str(ROOT)] = CHECKOUT
        for name, value in self._environment.items():
            self._environment[name] = " ".join(map(self._inside, value.split()))

    def _inside(self, word: str) -> str:
        """A word of a setting; a path of this machine is shown inside, and becomes the path there."""
        path = Path(word.removeprefix("file://"))
        if not path.is_absolute() or not path.exists():
            return word
        # An index on the disk names files beside it.
        shown = path.parent if word.startswith("file://") else path
        self._shown[str(shown)] = f"{OURS}{shown}"
        return word.replace(str(path), f"{OURS}{path}")

    def make(self) -> None:
        """Debian's packages, and the steps of the recipe.

        Raises:
            OSError: the mirror is out of reach; what mmdebstrap said.
        """
        command = ["mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"]
        command += ["bookworm", str(self.folder), "http://deb.debian.org/debian"]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise OSError(made.stderr[-1000:])
        recipe = [sys.executable, str(ROOT / "launch/container.py"), "steps"]
        steps = subprocess.run(recipe, capture_output=True, text=True, check=True).stdout
        self.must("sh", "-c", f"cd {CHECKOUT}\n{steps}")

    def must(self, *words: str) -> str:
        """What a command inside prints; it has to end with 0."""
        done = self.run(list(words))
        assert done.returncode == 0, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def run(
        self,
        words: list[str],
        *,
        shown: Mapping[Path, str] | None = None,
        timeout: float = 900,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside; shown: folders of this machine, and where they are mounted."""
        pairs = {str(path): inside for path, inside in (shown or {}).items()} | self._shown
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-c", ENTER]
        command += [str(self.folder), *(word for pair in pairs.items() for word in pair), "--"]
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        environment |= self._environment | {"OMP_NUM_THREADS": "1", "HOME": "/root"}
        return subprocess.run(
            [*command, *words], env=environment, capture_output=True, text=True, timeout=timeout
        )
