"""
Search with sparse codes, and why a document was found
======================================================

Dense embeddings find by meaning, but no one can say why a document was found, and every search
looks at every number of every document. Here embeddings become sparse codes: a few active latents
out of hundreds. A score is then a sum over the latents that query and document share, and each of
these can be given a name.
"""

# %% [markdown]
# From text to embeddings
# -----------------------
# Passages of Shakespeare, embedded by latent semantic analysis: fast, and enough to show the way. A
# transformer's embeddings go the same way. The second half of each passage asks for its first half.

# %%
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from retrieval import ContrastiveSparseEncoder, ExactIndex, LatentEncoder, Searcher
from sparsecode.datasets import load_shakespeare

passages = load_shakespeare(max_characters=700)
halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in passages]
documents, queries = (list(side) for side in zip(*halves, strict=True))
queries = queries[::10]
asked_for = np.arange(len(documents))[::10]

words = TfidfVectorizer(stop_words="english", min_df=3, sublinear_tf=True)
reduced = TruncatedSVD(96, random_state=0)
D = normalize(reduced.fit_transform(words.fit_transform(documents))).astype(np.float32)
Q = normalize(reduced.transform(words.transform(queries))).astype(np.float32)
print(f"{len(documents)} documents and {len(queries)} queries, embedded in {D.shape[1]} dimensions")

# %% [markdown]
# From embeddings to sparse codes
# -------------------------------
# `ContrastiveSparseEncoder` learns from the documents alone. One fit serves any number of active
# latents: fewer make a smaller index and less work for a search.

# %%
encoder = ContrastiveSparseEncoder(384, k=16, max_steps=250, batch_size=128).fit(D)


def found(queries: object, documents: object) -> float:
    """Return the share of queries whose first half is among the first 20 documents."""
    scores = queries @ documents.T
    scores = scores if isinstance(scores, np.ndarray) else scores.toarray()
    places = (scores > scores[np.arange(len(asked_for)), asked_for][:, None]).sum(1)
    return float((places < 20).mean())


dense = found(Q, D)
print(f"dense, {D.shape[1]} numbers a document: {dense:.0%} found")
shares = {}
for k in (2, 4, 8, 16, 32):
    shares[k] = found(encoder.transform(Q, k=k), encoder.transform(D, k=k))
    cut = found(normalize(Q[:, :k]), normalize(D[:, :k]))
    print(f"{k:3} active latents: {shares[k]:.0%}; the first {k} dimensions: {cut:.0%}")
    assert shares[k] > cut or k == 32
assert shares[2] < shares[32]
assert shares[32] > 0.7 * dense

# %% [markdown]
# Names for latents
# -----------------
# A latent is what the documents in which it is strongest have in common: here, the words that are
# frequent in them and rare elsewhere.

# %%
codes = encoder.transform(D)
weights = words.transform(documents)
vocabulary = words.get_feature_names_out()
typical = normalize(np.asarray((codes.T @ weights).todense())) - normalize(
    np.asarray(weights.mean(0))
)
labels = {latent: " ".join(vocabulary[np.argsort(-row)[:3]]) for latent, row in enumerate(typical)}

named = LatentEncoder(encoder, labels=labels)

# %% [markdown]
# Search, and why a document was found
# ------------------------------------
# `ExactIndex` keeps a list of documents for each latent and goes through those of the query alone.
# The score is the dot product of two sparse rows, so the contributions of the latents that both
# have add up to it; nothing is left unexplained.

# %%
searcher = Searcher(named, ExactIndex(encoder.n_dimensions)).fit(D)
results = searcher.search(Q, k=20)
share = np.mean([wanted in ids for wanted, ids in zip(asked_for, results.ids, strict=True)])
print(f"{share:.0%} found in the index")
assert abs(share - shares[16]) < 0.02

number = int(results.scores[:, 0].argmax())
best, score = int(results.ids[number, 0]), float(results.scores[number, 0])
why = searcher.explain(Q[number], best)
print("query:   ", " ".join(queries[number].split())[:90])
print("document:", " ".join(documents[best].split())[:90])
print(why)
assert np.isclose(why.contributions.sum(), score, atol=1e-5)
assert len(why.names) <= 16
