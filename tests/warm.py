"""Starts programs from a process that has done their imports.

Python, JAX and this package take two seconds of CPU to import, which is most of
what a small program takes. A `Server` imports them once and forks itself for
each program; before that JAX has neither a backend nor threads in it. All else
is as after `python -m`: the module runs as `__main__`, and exits by itself.

  server = Server('textdiffusion.api.training', JAX_PLATFORMS='cpu')
  program = server.start('launch.train', '--workdir=...', XLA_FLAGS='...')
  out, error = program.communicate(timeout=60)
"""

import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Collected:
  """All that comes out of a pipe, read as it comes: a pipe holds 64 KiB."""

  def __init__(self, descriptor):
    self._text = ''
    self._thread = threading.Thread(target=self._collect, args=[descriptor])
    self._thread.start()

  def _collect(self, descriptor):
    with os.fdopen(descriptor) as file:
      self._text = file.read()

  def read(self):
    self._thread.join()
    return self._text


class Program:
  """A started program, with the part of `subprocess.Popen` that tests use."""

  def __init__(self, name, out, error, status):
    self.args, self.returncode = name, None
    self.stdout, self.stderr = os.fdopen(out), Collected(error)
    self._status = os.fdopen(status)
    self.pid = int(self._status.readline())

  def wait(self, timeout=None):
    if self.returncode is None:
      if not select.select([self._status], [], [], timeout)[0]:
        raise subprocess.TimeoutExpired(self.args, timeout)
      self.returncode = int(self._status.readline())
    return self.returncode

  def send_signal(self, number):
    if not select.select([self._status], [], [], 0)[0]:
      with contextlib.suppress(ProcessLookupError):
        os.kill(self.pid, number)

  def kill(self):
    self.send_signal(signal.SIGKILL)

  def communicate(self, timeout=300):
    """The rest of stdout and all of stderr; kills a program that lasts."""
    timer = threading.Timer(timeout, self.kill)
    timer.start()
    out, code = self.stdout.read(), self.wait()
    if not timer.is_alive() and code == -signal.SIGKILL:
      raise subprocess.TimeoutExpired(self.args, timeout, out)
    timer.cancel()
    return out, self.stderr.read()


class Server:
  """A process that has imported `modules`, with `env` added to its variables.

  JAX reads its own variables (JAX_...) on import, so that all programs of a
  server share them.
  """

  def __init__(self, *modules, **env):
    self._channel, theirs = socket.socketpair()
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'tests.warm', str(theirs.fileno()), *modules],
      cwd=ROOT,
      env={**os.environ, **env},
      pass_fds=[theirs.fileno()],
    )
    theirs.close()
    self._programs = []

  def start(self, module, *args, **env):
    """Runs a module, as `python -m` does, with `env` added to its variables."""
    assert not [name for name in env if name.startswith('JAX_')], env
    out, error, status = os.pipe(), os.pipe(), os.pipe()
    theirs = [out[1], error[1], status[1]]
    request = json.dumps([module, [str(x) for x in args], env]) + '\n'
    socket.send_fds(self._channel, [request.encode()], theirs)
    for file in theirs:
      os.close(file)
    program = Program(module, out[0], error[0], status[0])
    self._programs.append(program)
    return program

  def close(self):
    for program in self._programs:
      program.kill()
    self._channel.close()
    self._process.wait(timeout=60)


def serve(channel):
  """Forks a program for each request; returns in it: (module, arguments)."""
  waiting = []
  while True:
    data, files, _, _ = socket.recv_fds(channel, 1, 3)
    if not data:  # the end: their CPU time counts as the server's
      for process in waiting:
        os.waitpid(process, 0)
      sys.exit()
    while not data.endswith(b'\n'):
      data += channel.recv(1 << 16)
    waits = os.fork()
    if waits:
      waiting.append(waits)
      for file in files:
        os.close(file)
      continue
    channel.close()
    out, error, status = files
    program = os.fork()
    if not program:
      os.dup2(out, 1)
      os.dup2(error, 2)
      for file in files:
        os.close(file)
      # Python remembers of the old files whether they can seek.
      fresh = functools.partial(open, mode='w', closefd=False)
      sys.stdout = fresh(1)
      sys.stderr = fresh(2, buffering=1, errors='backslashreplace')
      module, args, env = json.loads(data)
      os.environ.update(env)
      return module, args
    os.close(out)
    os.close(error)
    os.write(status, f'{program}\n'.encode())
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    os.write(status, f'{code}\n'.encode())
    os._exit(0)


def main(descriptor, *modules):
  for module in modules:
    importlib.import_module(module)
  module, args = serve(socket.socket(fileno=int(descriptor)))
  sys.argv = [module, *args]
  runpy.run_module(module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
