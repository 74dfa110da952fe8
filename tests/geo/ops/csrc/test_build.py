"""How kernels are compiled, kept and chosen, and that nothing of it ends in a crash.

All with one small C file in place of the kernels, which take half a minute.
"""

import logging
import os
import pwd
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from mgic_geo.ops.csrc import build, cache, compiler, processor
from mgic_vision.ops.kernel import IMAGES

HEADER = Path(build.__file__).with_name("entry.h")
SOURCE = """
#include "entry.h"
const int64_t mgic_lanes = 4;
ENTRY mgic_double(FLOATS(x), OUT_FLOATS(y), int threads)
{
    (void)threads;
    for (int64_t i = 0; i < x_length; i++)
        y[i] = 2 * x[i];
    return NULL;
}
"""
PLANTED = SOURCE.replace("mgic_lanes = 4", "mgic_lanes = 666")
pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The cache folder, empty, in an environment that says nothing else about kernels."""
    for name in ("CC", build.SWITCH, compiler.MORE_FLAGS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    return tmp_path / "cache" / "mgic"


@pytest.fixture
def stub(tmp_path):
    """The one small C file."""
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "stub.c").write_text(SOURCE)
    return build.Kernels("stub", (tmp_path / "native" / "stub.c",), (HEADER,))


@pytest.fixture
def anew(folder, stub):
    """``library()`` of that file, without its memory."""
    return partial(build.library.__wrapped__, stub)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """A library that is not ours."""
    kernels = build.Kernels("other", (), (HEADER,))
    return compiled(kernels, PLANTED, tmp_path_factory.mktemp("libraries") / "other")


@pytest.fixture
def planted(folder, other, anew):
    """Put it where ours is looked for."""
    anew()
    (ours,) = folder.iterdir()

    def plant(place: Path = folder) -> Path:
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{ours.name[: len('stub-0123456789abcdef')]}-{cache._hash(other)}.so"
        shutil.copy(other, path)
        path.chmod(0o644)
        return path

    ours.unlink()
    assert not list(folder.iterdir())
    return plant


def compiled(kernels, source: str, place: Path) -> Path:
    place.mkdir()
    (place / "other.c").write_text(source)
    compiler.compile_library(replace(kernels, sources=(place / "other.c",)), place / "library.so")
    return place / "library.so"


@pytest.fixture
def cc(tmp_path, monkeypatch):
    """Make a compiler out of a few lines of shell, in which ``$real`` is a real one."""
    real = shlex.join(compiler.find_compiler())

    def make(script: str) -> None:
        path = tmp_path / "our-cc"
        path.write_text(f"#!/bin/sh\nreal={shlex.quote(real)}\n{textwrap.dedent(script)}")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))

    return make


def doubled(library: build.Library) -> list[float]:
    x = torch.arange(3.0)
    y = torch.empty(3)
    library.entries["mgic_double"](x, y)
    return y.tolist()


# what is compiled, and when


def test_kernels_are_compiled_once_and_found_again_without_a_compiler(
    anew, folder, monkeypatch, caplog
):
    assert doubled(anew()) == [0, 2, 4]
    (path,) = folder.iterdir()
    before = path.stat()
    caplog.clear()
    monkeypatch.setenv("PATH", "/nonexistent")
    assert doubled(anew()) == [0, 2, 4]
    assert caplog.text == ""
    assert path.stat() == before


@pytest.mark.parametrize("change", ["processor", "source", "header", "CC", "MGIC_CFLAGS"])
def test_another_file_for_another(anew, stub, folder, tmp_path, monkeypatch, change):
    anew()
    if change == "processor":
        monkeypatch.setattr(processor, "describe", lambda: "another")
    elif change == "source":
        stub.sources[0].write_text(SOURCE.replace("2 *", "x_length *"))
    elif change == "header":
        (tmp_path / "entry.h").write_text(HEADER.read_text() + "\n")
        anew = partial(anew.func, replace(stub, headers=(tmp_path / "entry.h",)))
    else:
        monkeypatch.setenv(change, {"CC": "cc", "MGIC_CFLAGS": "-O1"}[change])
    anew()
    names = [path.name.split("-")[:2] for path in folder.iterdir()]
    assert len(names) == 2
    assert names[0] != names[1]


def test_flags_of_the_environment_come_after_ours(anew, cc, tmp_path, monkeypatch):
    cc(f'echo "$@" >> {tmp_path}/commands; exec $real "$@"')
    monkeypatch.setenv("MGIC_CFLAGS", "-O1 '-DA=\"b c\"'")
    assert anew() is not None
    command = (tmp_path / "commands").read_text().splitlines()[-1]
    assert command.index("-O3") < command.index('-O1 -DA="b c"')


@pytest.mark.parametrize(
    ("refused", "used"),
    [
        ("-march=native", "-fopenmp -mcpu=native"),
        ("-m*=native", "-fopenmp -I"),
        ("-fopenmp", "-march=native"),
        ("-fopenmp*|*-m*=native", "-Wextra -I"),
    ],
)
def test_flags_that_a_compiler_refuses_are_left_out(anew, cc, tmp_path, refused, used):
    cc(
        f"""
        echo "$*" >> {tmp_path}/commands
        case "$*" in *{refused}*) echo "unknown argument"; exit 1;; esac
        for one; do shift; [ $one = -mcpu=native ] || set -- "$@" "$one"; done  # of Arm
        exec $real "$@"
        """
    )
    assert doubled(anew()) == [0, 2, 4]
    *_, command = (tmp_path / "commands").read_text().splitlines()
    assert used in command
    assert refused.strip("*") not in command


def test_a_compiler_that_is_wrong_is_asked_with_a_small_file(anew, cc, tmp_path):
    cc(f'echo "$*" >> {tmp_path}/commands; exit 1')
    assert anew() is None
    assert "stub.c" not in (tmp_path / "commands").read_text()


def test_several_may_compile_at_once(anew, folder):
    with ThreadPoolExecutor(3) as pool:
        assert None not in pool.map(lambda _: anew(), range(3))
    assert len(list(folder.iterdir())) == 1


def test_a_user_without_logging_is_told_what_takes_so_long(anew, monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    assert None not in (anew() for _ in range(2))
    told = "stub: compiling its kernels for this processor (once, half a minute)\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("kernels", [build.GRAPHS, IMAGES], ids=lambda kernels: kernels.package)
def test_our_c_is_without_warnings(kernels, tmp_path):
    folders = {f"-I{header.parent}" for header in kernels.headers}
    check = [*compiler.FLAGS, "-fsyntax-only", "-fopenmp", "-march=native", *folders]
    command = [*compiler.find_compiler(), *check, *map(str, kernels.sources)]
    assert compiler.run(command, tmp_path) == ""


# where they are kept


def to_link(path: Path) -> None:
    """Move a file or a folder, and put a link to it in its place."""
    path.symlink_to(shutil.move(path, path.with_name("target")))


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(path, 12345, 12345)


UNTRUSTED = {
    "folder that everyone writes": lambda path: path.parent.chmod(0o777),
    "folder that a group writes": lambda path: path.parent.chmod(0o775),
    "folder like /tmp": lambda path: path.parent.chmod(0o1777),
    "folder below one that everyone writes": lambda path: path.parents[1].chmod(0o777),
    "folder that is a link": lambda path: to_link(path.parent),
    "folder of another user": lambda path: give_away(path.parent),
    "folder below one of another user": lambda path: give_away(path.parents[1]),
    "file that everyone writes": lambda path: path.chmod(0o666),
    "file that a group writes": lambda path: path.chmod(0o664),
    "file that is a link": to_link,
    "file of another user": give_away,
}


@pytest.mark.fault(53)
@pytest.mark.parametrize("what", UNTRUSTED)
def test_nothing_is_loaded_that_others_can_write(anew, planted, folder, caplog, what):
    path = planted()
    UNTRUSTED[what](path)
    assert anew().lanes == 4
    assert re.search("others can write to|is a link or a device|belongs to user", caplog.text)
    if what.startswith("folder"):  # is left as it is
        assert caplog.text.count(f"are not kept in {folder}: ") == 1
        assert list(folder.iterdir()) == [path]
    else:
        assert not path.exists()
        assert path.with_name("target").exists() == ("link" in what)


@pytest.mark.fault(53)
def test_a_folder_in_one_like_tmp_is_used(anew, planted, folder):
    planted()
    folder.parent.chmod(0o1777)
    assert anew().lanes == 666


@pytest.mark.fault(53)
def test_what_is_kept_elsewhere_is_found_again_and_checked_as_well(
    anew, planted, folder, tmp_path, caplog
):
    folder.chmod(0o777)
    anew()
    second = tmp_path / "elsewhere" / f"mgic-{os.geteuid()}"
    assert stat.S_IMODE(second.stat().st_mode) == 0o755
    caplog.clear()
    assert anew().lanes == 4
    assert caplog.text == ""
    second.chmod(0o777)
    shutil.rmtree(second)
    planted(second)
    second.chmod(0o777)
    assert anew().lanes == 4
    assert caplog.text.count("are not kept in") == 2  # but in a fresh folder


@pytest.mark.fault(53)
@pytest.mark.parametrize("damage", ["cut short", "empty", "a bit flipped", "another file"])
def test_damaged_file_is_made_again(anew, folder, caplog, damage):
    anew()
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    damaged = {"cut short": whole[:5000], "empty": b"", "a bit flipped": flipped}
    path.unlink()  # it is mapped into this process, which a change would end
    path.write_bytes(damaged.get(damage, b"\x7fELF"))
    caplog.clear()
    assert doubled(anew()) == [0, 2, 4]
    assert f"made again: {path} is damaged" in caplog.text
    assert path.read_bytes() == whole


@pytest.mark.fault(53)
@pytest.mark.parametrize("place", ["/proc/mgic-cache", "/dev/null"])
def test_where_nothing_can_be_written_kernels_are_kept_elsewhere(
    anew, tmp_path, monkeypatch, caplog, place
):
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    assert doubled(anew()) == [0, 2, 4]
    assert f"are not kept in {place}/mgic" in caplog.text
    (kept,) = (tmp_path / "elsewhere" / f"mgic-{os.geteuid()}").iterdir()
    assert kept.suffix == ".so"


@pytest.mark.fault(53)
def test_full_disk_is_passed_over(anew, folder, monkeypatch, caplog):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(
        cache.shutil, "disk_usage", lambda place: usage._replace(free=1 if place == folder else 1e9)
    )
    assert doubled(anew()) == [0, 2, 4]
    assert f"the disk of {folder} is full" in caplog.text


@pytest.mark.fault(53)
def test_user_without_home_and_name_has_kernels(anew, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(RuntimeError):
        Path.home()
    assert doubled(anew()) == [0, 2, 4]
    assert (tmp_path / "elsewhere" / f"mgic-{os.geteuid()}").is_dir()


def test_relative_cache_home_is_ignored(anew, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    anew()
    assert len(list((tmp_path / ".cache" / "mgic").iterdir())) == 1


# what ends early


def alive(marker: str) -> list[str]:
    """Processes with this in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] if marker in path.read_text(errors="replace") else []
        except OSError:
            continue
    return found


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def slow_compiler(cc):
    """A compiler that starts another process, as they do, and takes an hour; its marker."""
    marker = f"3600.{os.getpid()}"
    cc(f"sleep {marker} &\nsleep {marker}; true")
    return marker


@pytest.mark.fault(53)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_a_killed_process(anew, stub, folder, slow_compiler, monkeypatch, end):
    script = f"""
    import signal; signal.signal(signal.SIGINT, signal.default_int_handler)  # `&` ignores it
    import sys; sys.path.insert(0, {str(HEADER.parent)!r})
    import cache, compiler; from pathlib import Path
    kernels = compiler.Kernels("stub", (Path({str(stub.sources[0])!r}),), ())
    cache.store("stub", lambda path: compiler.compile_library(kernels, path))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(alive(slow_compiler)) == 2)
        process.send_signal(end)
    wait_for(lambda: not alive(slow_compiler) and not alive(str(folder)))  # nor its guard
    assert len(list(folder.iterdir())) == (0 if end is signal.SIGINT else 1)
    monkeypatch.delenv("CC")
    assert doubled(anew()) == [0, 2, 4]
    assert [path.suffix for path in folder.iterdir()] == [".so"]


def test_compiler_that_takes_too_long_is_ended(tmp_path, slow_compiler):
    with pytest.raises(subprocess.TimeoutExpired):
        compiler.run(compiler.find_compiler(), tmp_path, timeout=0.5)
    wait_for(lambda: not alive(slow_compiler))


@pytest.mark.fault(53)
def test_parts_of_processes_at_work_are_left_alone(anew, folder):
    folder.mkdir(parents=True)
    other, host = os.getppid(), cache._host()
    left = [
        folder / name for name in (f"a.{host}.{other}.x.part", "b.elsewhere.1.x.part", "c.part")
    ]
    old = [folder / name for name in (f"d.{host}.{2**22 + 1}.x.part", "e.elsewhere.1.x.part")]
    for path in (*left, *old):
        path.mkdir()
        (path / "library.so").touch()
    (folder / "f.part").touch()  # as they were before
    for path in (old[1], folder / "f.part"):
        os.utime(path, (0, time.time() - 2 * cache.STALE))
    anew()
    assert sorted(folder.glob("*.part")) == left


# what goes wrong ends in plain PyTorch


def test_without_a_compiler_a_warning_says_so(anew, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert anew() is None
    assert "stub runs without its compiled kernels, slower: no C compiler" in caplog.text
    assert "compiling" not in caplog.text
    assert "(MGIC_KERNELS=reference silences this)" in caplog.text


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CC", "false", "non-zero exit status"),
        ("CC", "true", "the compiler made no library"),
        ("CC", "/no/such/compiler", "not found"),
        ("CC", 'gcc "', "CC must be a command line"),
        ("MGIC_CFLAGS", "'", "MGIC_CFLAGS must be a command line"),
        ("MGIC_CFLAGS", "-fno-such-flag-exists", "no-such-flag-exists"),
    ],
)
def test_compiler_that_is_none_is_named_once(
    anew, folder, monkeypatch, caplog, variable, value, said
):
    monkeypatch.setenv(variable, value)
    assert anew() is None
    (told,) = (line.message for line in caplog.records if "compiling its" not in line.message)
    assert "stub runs without its compiled kernels, slower" in told
    assert said in told
    assert list(folder.iterdir()) == []


def test_compiler_that_writes_no_utf8_is_quoted(anew, cc, caplog):
    cc(r"printf 'el\351ment inconnu' >&2; exit 1")
    assert anew() is None
    assert "el\N{REPLACEMENT CHARACTER}ment inconnu" in caplog.text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (SOURCE.replace("ENTRY mgic_double", "static ENTRY mgic_double"), "mgic_double"),
        (SOURCE.replace("mgic_lanes", "other_lanes"), "mgic_lanes"),
        (SOURCE.replace("return NULL", "return missing()") + "report missing(void);", "missing"),
    ],
)
def test_library_that_lacks_something_is_not_used(anew, stub, folder, cc, caplog, source, said):
    other = stub.sources[0].with_name("other.txt")
    other.write_text(source.replace("report missing(void);", ""))
    declared = "-Dmissing=mgic_missing -Wno-implicit-function-declaration -Wno-int-conversion"
    cc(
        f"""
        case "$*" in *stub.c*) ;; *) exec $real "$@";; esac
        for last; do [ "$before" = -o ] && made=$last; before=$last; done
        exec $real -shared -fPIC -w {declared} -I{HEADER.parent} -x c {other} -o "$made"
        """
    )
    assert anew() is None
    assert said in caplog.text
    assert list(folder.iterdir()) == []  # nor kept, where it would be found again for good


def test_prototype_that_is_not_known_is_named(anew, stub, caplog):
    stub.sources[0].write_text(SOURCE.replace("int threads", "char threads"))
    assert anew() is None
    assert "mgic_double must end with int threads" in caplog.text


# which of them


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> list[Path]:
    """Three of other lanes, which tell them apart."""
    kernels, place = build.Kernels("stub", (), (HEADER,)), tmp_path_factory.mktemp("grades")
    sources = {lanes: SOURCE.replace("= 4", f"= {lanes}") for lanes in (101, 102, 103)}
    return [compiled(kernels, source, place / str(lanes)) for lanes, source in sources.items()]


@pytest.fixture
def grades(stub, libraries, monkeypatch):
    """Prebuilt libraries of three grades, and a slow processor."""
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "features", frozenset)
    for made, grade in zip(libraries, processor.grades(), strict=True):
        stub.prebuilt(grade.name).parent.mkdir(exist_ok=True)
        shutil.copy(made, stub.prebuilt(grade.name))
    return processor.grades()


@pytest.mark.parametrize("choice", ["", "auto", "prebuilt", "require"])
def test_best_grade_is_loaded_without_a_compiler(anew, grades, folder, monkeypatch, caplog, choice):
    monkeypatch.setenv("MGIC_KERNELS", choice)
    monkeypatch.setenv("PATH", "/nonexistent")
    for lanes, grade in enumerate(grades, start=101):
        monkeypatch.setattr(processor, "features", lambda grade=grade: grade.features | {"fpu"})
        assert anew().lanes == lanes
    monkeypatch.setattr(processor, "features", lambda: grades[0].features - {"avx512vl"})
    assert anew().lanes == 102
    assert caplog.text == ""
    assert not folder.exists()


def test_grade_that_is_missing_gives_the_next(anew, grades, stub, monkeypatch):
    monkeypatch.setattr(processor, "features", lambda: grades[0].features)
    stub.prebuilt(grades[0].name).unlink()
    assert anew().lanes == 102


@pytest.mark.parametrize("setting", [("MGIC_KERNELS", "native"), ("MGIC_CFLAGS", "-O1")])
def test_nothing_prebuilt_where_kernels_are_to_be_built(anew, grades, monkeypatch, setting):
    monkeypatch.setenv(*setting)
    assert anew().lanes == 4


def test_prebuilt_kernels_of_other_sources_are_not_loaded(anew, grades, stub):
    assert anew().lanes == 103
    stub.sources[0].write_text(SOURCE + "\n")
    assert anew().lanes == 4


@pytest.mark.fault(53)
def test_prebuilt_kernels_that_are_damaged_give_way(anew, grades, stub, caplog):
    path = stub.prebuilt("x86-64")
    path.unlink()
    path.write_bytes(b"")
    assert anew().lanes == 4
    assert f"{path} cannot be loaded" in caplog.text


@pytest.mark.parametrize(
    ("choice", "said"), [("prebuilt", "slower: nothing prebuilt for"), ("reference", "")]
)
def test_where_nothing_is_prebuilt_a_warning_says_so_and_not_where_none_is_wanted(
    anew, monkeypatch, caplog, choice, said
):
    monkeypatch.setenv("MGIC_KERNELS", choice)
    assert anew() is None
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


def test_required_kernels_are_there_or_an_error_is(anew, monkeypatch):
    monkeypatch.setenv("MGIC_KERNELS", "require")
    assert anew().lanes == 4
    monkeypatch.setenv("CC", "false")
    with pytest.raises(RuntimeError, match=r"stub has no compiled kernels: .*exit status"):
        anew()


@pytest.mark.parametrize("choice", ["0", "off", "Auto"])
def test_another_choice_is_an_error(anew, monkeypatch, choice):
    monkeypatch.setenv("MGIC_KERNELS", choice)
    accepted = "auto, native, prebuilt, reference, require, triton"
    with pytest.raises(ValueError, match=f"MGIC_KERNELS must be one of {accepted}, got '{choice}'"):
        anew()


def test_grades_are_what_the_processor_says():
    names = [grade.name for grade in processor.supported()]
    assert names == [grade.name for grade in processor.grades()][-len(names) :]
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert "x86-64-v3" in names
    assert ("x86-64-v4" in names) == (torch.backends.cpu.get_cpu_capability() == "AVX512")
