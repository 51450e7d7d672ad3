"""Run the command as `python -m tilecascade.app.cli`."""

from tilecascade.app.cli.main import main

main()
