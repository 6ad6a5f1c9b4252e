"""The words that the built-in checks put in: a small list of its own, English."""

# Either may stand for the other in nearly any sentence; lower case.
SYNONYMS: tuple[tuple[str, str], ...] = (
    ("big", "large"),
    ("quick", "fast"),
    ("quickly", "rapidly"),
    ("begin", "start"),
    ("begins", "starts"),
    ("began", "started"),
    ("buy", "purchase"),
    ("bought", "purchased"),
    ("movie", "film"),
    ("movies", "films"),
    ("funny", "amusing"),
    ("story", "tale"),
    ("whole", "entire"),
    ("nearly", "almost"),
    ("maybe", "perhaps"),
    ("often", "frequently"),
    ("get", "obtain"),
    ("help", "assist"),
    ("kids", "children"),
    ("also", "too"),
    ("enough", "sufficiently"),
    ("difficult", "hard"),
    ("sick", "ill"),
    ("answer", "reply"),
    ("shop", "store"),
    ("child", "kid"),
    ("picture", "image"),
    ("pretty", "beautiful"),
    ("smart", "clever"),
    ("sad", "unhappy"),
)
# Pairs of treebank words: written apart and contracted. The words stay in number, so that tags stay in place.
CONTRACTIONS: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = (
    *(((verb, "not"), (verb, "n't")) for verb in ("do", "does", "did", "is", "are", "was", "were", "has", "have")),
    *(((verb, "not"), (verb, "n't")) for verb in ("had", "could", "would", "should", "must", "need")),
    *(((who, "is"), (who, "'s")) for who in ("it", "he", "she", "that", "there", "what")),
    *(((who, "are"), (who, "'re")) for who in ("they", "we", "you")),
    *(((who, "have"), (who, "'ve")) for who in ("i", "they", "we", "you")),
    *(((who, "will"), (who, "'ll")) for who in ("i", "they", "we", "you", "he", "she", "it")),
    (("i", "am"), ("i", "'m")),
)
NEUTRAL: tuple[tuple[str, ...], ...] = (
    ("i", "read", "this", "twice", "."),
    ("this", "was", "written", "down", "today", "."),
    ("that", "is", "all", "for", "now", "."),
)
FIRST_NAMES = ("Anna", "Maria", "John", "David", "Fatima", "Ahmed", "Wei", "Yuki", "Olga", "Kwame", "Carlos", "Ingrid")
LAST_NAMES = ("Smith", "Garcia", "Khan", "Okafor", "Nguyen", "Müller", "Rossi", "Novak", "Tanaka", "Silva")
PLACES = ("Paris", "London", "Berlin", "Nairobi", "Tokyo", "Lima", "Oslo", "Cairo", "Canada", "India", "Peru", "Spain")
GOOD = ("wonderful", "excellent", "great", "brilliant", "delightful", "superb", "beautiful", "charming")
BAD = ("awful", "terrible", "horrible", "dreadful", "boring", "dull", "disappointing", "lousy")
THINGS = ("film", "book", "story", "show", "meal", "song")
COPULAS = frozenset({"is", "was", "are", "were", "'s", "'re"})
NEGATIONS = frozenset({"not", "n't", "no", "never", "nothing", "nobody", "hardly", "without", "cannot"})
# What a task's labels may be called, by what they mean; compared without case.
MEANINGS: dict[str, tuple[str, ...]] = {
    "positive": ("positive", "pos", "good"),
    "negative": ("negative", "neg", "bad"),
    "person": ("PER", "PERSON", "B-PER", "B-PERSON"),
    "place": ("LOC", "GPE", "LOCATION", "B-LOC", "B-GPE", "B-LOCATION"),
}
