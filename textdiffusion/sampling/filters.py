"""The filters of `samplers.filters` around a denoiser."""

from textdiffusion.core.types import Causal, DenoiseFn, Head, Posterior, Time, X
from textdiffusion.processes.bridge import TokenProcess
from textdiffusion.samplers.filters import filtered, filtered_posterior


def filter_causal(
  head: Head, temperature: float, top_k: int, top_p: float
) -> Causal:
  """Causal -> Causal. Raises TypeError for any other head."""
  if not isinstance(head, Causal):
    raise TypeError(
      f'left-to-right decoding takes a Causal head, not {type(head).__name__}'
    )
  return Causal(filtered(head.logits, temperature, top_k, top_p))


def filter_denoiser(
  process: TokenProcess,
  denoise: DenoiseFn,
  temperature: float,
  top_k: int,
  top_p: float,
) -> DenoiseFn:
  """A denoiser whose posterior is reshaped; `denoise` itself if by nothing."""
  if temperature == 1 and top_k == 0 and top_p == 1:
    return denoise
  reshape = lambda logits: filtered(logits, temperature, top_k, top_p)

  def reshaped(x: X, t: Time) -> Posterior:
    return filtered_posterior(process, denoise(x, t), x, t, reshape)

  return reshaped
