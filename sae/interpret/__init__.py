"""What single latents stand for: examples from the data, their text, related latents."""

from sae.interpret.attribution import Attribution as Attribution
from sae.interpret.attribution import ablation_effects as ablation_effects
from sae.interpret.attribution import attribute as attribute
from sae.interpret.bilinear import QuadraticForm as QuadraticForm
from sae.interpret.bilinear import dictionary_similarity as dictionary_similarity
from sae.interpret.bilinear import effective_dimension as effective_dimension
from sae.interpret.bilinear import group_form as group_form
from sae.interpret.bilinear import group_weights as group_weights
from sae.interpret.bilinear import latent_form as latent_form
from sae.interpret.bilinear import manifold_figure as manifold_figure
from sae.interpret.bilinear import probe_interactions as probe_interactions
from sae.interpret.browser import browser_data as browser_data
from sae.interpret.encoded import EncodedRows as EncodedRows
from sae.interpret.lens import LogitLens as LogitLens
from sae.interpret.lens import direction_logits as direction_logits
from sae.interpret.lens import logit_lens as logit_lens
from sae.interpret.neighbors import nearest_latents as nearest_latents
from sae.interpret.quantiles import activation_quantiles as activation_quantiles
from sae.interpret.steering import ablate as ablate
from sae.interpret.steering import steer as steer
from sae.interpret.token_texts import token_texts as token_texts
from sae.interpret.top_examples import LatentExamples as LatentExamples
from sae.interpret.top_examples import top_examples as top_examples
from sae.interpret.windows import TokenWindows as TokenWindows
from sae.interpret.windows import token_windows as token_windows
