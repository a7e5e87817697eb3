"""What single latents stand for: examples from the data, their text, related latents."""

from sae.interpret.browser import browser_data as browser_data
from sae.interpret.encoded import EncodedRows as EncodedRows
from sae.interpret.neighbors import nearest_latents as nearest_latents
from sae.interpret.token_texts import token_texts as token_texts
from sae.interpret.top_examples import LatentExamples as LatentExamples
from sae.interpret.top_examples import top_examples as top_examples
from sae.interpret.windows import TokenWindows as TokenWindows
from sae.interpret.windows import token_windows as token_windows
