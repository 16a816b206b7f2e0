"""One class per method: a frozen dataclass of its options, named as the paper.

`build(vocab)` of such a class returns a `Method`.
"""

from textdiffusion.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
  'textdiffusion.methods',
  {
    'ARDiffusion': 'ar_diffusion',
    'Autoregressive': 'autoregressive',
    'CDCD': 'cdcd',
    'D3PM': 'd3pm',
    'DFM': 'dfm',
    'DiffuSeq': 'diffuseq',
    'DiffusionLM': 'diffusion_lm',
    'Duo': 'duo',
    'EditFlows': 'edit_flows',
    'FlexMDM': 'flexmdm',
    'FlowLM': 'flow_lm',
    'GIDD': 'gidd',
    'GenMD4': 'genmd4',
    'MD4': 'md4',
    'MDLM': 'mdlm',
    'Method': 'method',
    'Plaid': 'plaid',
    'RADD': 'radd',
    'SEDD': 'sedd',
    'SSDLM': 'ssd_lm',
    'SeqDiffuSeq': 'seqdiffuseq',
    'UDLM': 'udlm',
    'XDLM': 'xdlm',
  },
)
