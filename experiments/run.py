"""Text to 3D: a prompt becomes a checkpoint, a turntable video and a mesh.

    python -m experiments.run --prompt "a red mushroom"

Everything goes to outputs/<prompt>-seed<seed>/. Stop with Ctrl-C at any time and go on
with --resume and that folder. Many prompts and seeds: see `experiments.run_many`.
"""

import sys

from dreamfusion_jax.caches import keep_compiled_programs
from dreamfusion_jax.cores import split_cores
from dreamfusion_jax.sharing import initialize_hosts
from experiments.command_line import UsageError, as_program, one_line_errors, say_devices
from experiments.run_options import parse


def _join(hosts: tuple[str, ...]) -> None:
    """Joins the hosts of a run.

    Raises:
        UsageError: They are not given as they should be.
    """
    match hosts:
        case ():
            return
        case ("auto",):
            initialize_hosts()
        case (coordinator, count, host) if count.isdecimal() and host.isdecimal():
            initialize_hosts(coordinator, int(count), int(host))
        case _:
            raise UsageError("--hosts takes auto, or ADDRESS:PORT, the number of hosts, and which")


def main(argv: list[str] | None = None) -> None:
    """Runs from the command line."""
    with one_line_errors():
        arguments = parse(sys.argv[1:] if argv is None else argv)
        # After the options: the help needs none of it.
        from dreamfusion_jax.runs.hosts import is_writer
        from experiments.run_many import make_many
        from experiments.run_one import check_watching, make_one
        from experiments.splitting import asked_split, views_for_cores

        split_cores(views_for_cores(arguments))
        _join(arguments.hosts)
        if arguments.compilation_cache:
            keep_compiled_programs()
        check_watching(arguments)
        if arguments.resume is None and not arguments.many:
            asked_split(arguments.split, arguments.config.train.views, scenes=1)
        if is_writer():
            say_devices()
        if arguments.many:
            make_many(arguments)
            return
        make_one(arguments)


def program() -> None:
    """The console command `dreamfusion-jax`."""
    as_program(main)


if __name__ == "__main__":
    program()
