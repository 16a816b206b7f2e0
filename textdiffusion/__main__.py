"""`python -m textdiffusion` is the program `textdiffusion`."""

from textdiffusion.launchers import main

if __name__ == '__main__':
  main()
