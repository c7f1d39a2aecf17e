/* recall_words.c: the word lists of the recall model's language.
 *
 * Design: verbs are in the past tense, determiners take a singular noun and a name is never an English
 * sentence opener, so that any words put into a form read as a sentence. "key" and the relations ("is" …)
 * stand in facts only.
 */
#include "decoder/model/recall_words.h"

#include <assert.h>
#include <string.h>

const char recall_classes[] = "SODANVIPRCF";

static const char *const starts[] = {"The",  "This", "That", "Every", "Each", "Another",
                                     "Some", "One",  "His",  "Her",   "Our",  "Their"};
static const char *const opens[] = {
    "Yesterday", "Later",  "Slowly",  "Once",    "Meanwhile", "Soon",  "Often",   "Afterwards", "Suddenly",
    "Quietly",   "Nearby", "Finally", "Somehow", "Earlier",   "Again", "Outside", "Upstairs",   "Elsewhere"};
static const char *const dets[] = {"the",  "this", "that", "every", "each", "another",
                                   "some", "one",  "his",  "her",   "our",  "their"};
static const char *const preps[] = {"across",  "beside",  "under",   "behind", "near",    "above", "below",
                                    "beyond",  "inside",  "through", "toward", "against", "along", "around",
                                    "without", "beneath", "over",    "past",   "of",      "for"};
static const char *const conjs[] = {"and", "but", "while", "because", "although", "until", "when", "since"};
static const char *const frames[] = {"key", "is", "was", "became", "remains"};
const char recall_relations[RECALL_N_RELATIONS][RECALL_RELATION_MAX] = {"is", "was", "became", "remains"};
static const char *const adverbs[] = {
    "slowly",  "gladly", "calmly",  "boldly",   "barely",  "nearly",    "gently",     "firmly",   "kindly",
    "loudly",  "neatly", "openly",  "partly",   "plainly", "politely",  "promptly",   "proudly",  "quickly",
    "quietly", "rarely", "readily", "really",   "roughly", "sadly",     "safely",     "secretly", "sharply",
    "simply",  "softly", "still",   "suddenly", "surely",  "swiftly",   "truly",      "usually",  "warmly",
    "wisely",  "always", "never",   "often",    "soon",    "twice",     "once",       "almost",   "merely",
    "even",    "only",   "just",    "finally",  "briefly", "carefully", "cheerfully", "clearly",  "closely",
    "eagerly", "easily", "exactly", "fairly",   "freely",  "hardly"};
static const char *const adjs[] = {
    "quiet",  "narrow",  "broken", "golden",   "silver", "wooden",  "ancient",  "bitter",  "blue",
    "bold",   "brave",   "brief",  "bright",   "brown",  "busy",    "calm",     "careful", "cheap",
    "clean",  "clever",  "cold",   "common",   "cool",   "crooked", "curious",  "damp",    "dark",
    "deep",   "dry",     "dull",   "dusty",    "eager",  "early",   "empty",    "faint",   "fair",
    "famous", "fancy",   "fierce", "fine",     "flat",   "foreign", "formal",   "fresh",   "friendly",
    "gentle", "giant",   "glad",   "grand",    "grave",  "great",   "green",    "grey",    "happy",
    "hard",   "harsh",   "heavy",  "hidden",   "high",   "hollow",  "honest",   "humble",  "hungry",
    "idle",   "jolly",   "keen",   "kind",     "large",  "late",    "lazy",     "lean",    "light",
    "little", "lonely",  "long",   "lost",     "loud",   "loyal",   "lucky",    "mad",     "merry",
    "mild",   "modest",  "muddy",  "nervous",  "new",    "noble",   "noisy",    "odd",     "old",
    "pale",   "patient", "plain",  "pleasant", "polite", "poor",    "precious", "pretty",  "proud",
    "pure",   "quick",   "rare",   "ready",    "red",    "rich",    "ripe",     "rough",   "round",
    "royal",  "rude",    "rusty",  "sad",      "safe",   "secret",  "serious",  "shallow", "sharp",
    "short",  "shy",     "silent", "simple",   "slim",   "slow",    "small",    "smooth",  "soft",
    "solemn", "solid",   "sour",   "steady",   "steep",  "stern",   "stiff",    "strange", "strict",
    "strong", "sturdy",  "sudden", "sweet",    "swift",  "tall",    "tame",     "tender",  "thick",
    "thin",   "tidy",    "tiny",   "tired",    "tough",  "useful",  "vast",     "velvet",  "vivid",
    "warm",   "weak",    "weary",  "wet",      "white",  "wide",    "wild",     "wise",    "woollen",
    "worn",   "yellow",  "young"};
static const char *const nouns[] = {
    "miller",   "lantern",   "bridge",   "farmer",  "teacher", "doctor",  "sailor",   "baker",   "painter",
    "soldier",  "shepherd",  "merchant", "weaver",  "captain", "clerk",   "singer",   "hunter",  "fisher",
    "potter",   "driver",    "widow",    "cousin",  "uncle",   "sister",  "brother",  "mother",  "father",
    "daughter", "neighbour", "stranger", "guest",   "child",   "king",    "queen",    "prince",  "judge",
    "lawyer",   "servant",   "monk",     "pilgrim", "poet",    "writer",  "student",  "master",  "nurse",
    "guard",    "thief",     "beggar",   "dancer",  "actor",   "horse",   "donkey",   "goat",    "sheep",
    "cow",      "dog",       "cat",      "fox",     "wolf",    "bear",    "deer",     "hare",    "mouse",
    "rat",      "hen",       "goose",    "duck",    "crow",    "owl",     "hawk",     "eagle",   "swan",
    "snake",    "frog",      "fish",     "trout",   "salmon",  "whale",   "bee",      "spider",  "moth",
    "ant",      "snail",     "worm",     "tree",    "oak",     "birch",   "willow",   "pine",    "apple",
    "pear",     "plum",      "cherry",   "rose",    "lily",    "tulip",   "daisy",    "clover",  "grass",
    "moss",     "leaf",      "branch",   "root",    "seed",    "garden",  "orchard",  "meadow",  "field",
    "forest",   "hill",      "mountain", "valley",  "river",   "stream",  "lake",     "pond",    "sea",
    "island",   "shore",     "harbour",  "beach",   "cliff",   "cave",    "desert",   "road",    "path",
    "lane",     "street",    "square",   "market",  "village", "town",    "city",     "castle",  "tower",
    "wall",     "gate",      "door",     "window",  "roof",    "chimney", "kitchen",  "cellar",  "attic",
    "stair",    "hall",      "room",     "house",   "cottage", "barn",    "stable",   "mill",    "church",
    "school",   "temple",    "tavern",   "shop",    "office",  "library", "museum",   "theatre", "station",
    "ship",     "boat",      "raft",     "ferry",   "cart",    "wagon",   "carriage", "train",   "wheel",
    "engine",   "machine",   "clock",    "watch",   "mirror",  "lamp",    "candle",   "table",   "chair",
    "bench",    "bed",       "blanket",  "pillow",  "carpet",  "curtain", "basket",   "bucket",  "barrel",
    "bottle",   "cup",       "plate",    "spoon",   "knife",   "fork",    "kettle",   "oven",    "stove",
    "hammer",   "saw",       "axe",      "shovel",  "ladder",  "rope",    "chain",    "nail",    "needle",
    "thread",   "coat",      "hat",      "boot",    "shoe",    "glove",   "scarf",    "shirt",   "belt",
    "purse",    "coin",      "letter",   "book",    "paper",   "pen",     "map",      "flag",    "bell",
    "drum",     "flute",     "violin",   "song",    "story",   "poem",    "picture",  "statue",  "jewel",
    "ring",     "crown",     "sword",    "shield",  "arrow",   "bow",     "bread",    "cheese",  "butter",
    "soup",     "cake",      "honey",    "salt",    "sugar",   "wine",    "tea",      "storm",   "wind",
    "cloud",    "shadow",    "morning",  "evening", "winter",  "summer",  "promise",  "answer",  "question",
    "reason",   "secret",    "rumour",   "journey", "lesson",  "quarrel", "dream",    "memory",  "number"};
static const char *const verbs[] = {
    "carried",   "found",    "lost",     "saw",       "heard",      "liked",      "loved",    "feared",
    "followed",  "passed",   "watched",  "helped",    "built",      "bought",     "sold",     "broke",
    "brought",   "caught",   "chose",    "cleaned",   "closed",     "opened",     "copied",   "counted",
    "covered",   "crossed",  "cut",      "described", "discovered", "drew",       "dropped",  "earned",
    "entered",   "examined", "expected", "fed",       "filled",     "finished",   "fixed",    "forgot",
    "gathered",  "gave",     "greeted",  "guarded",   "hated",      "held",       "hid",      "hired",
    "hurt",      "ignored",  "invited",  "joined",    "kept",       "kicked",     "kissed",   "knew",
    "learned",   "led",      "left",     "lent",      "lifted",     "lit",        "loaded",   "locked",
    "made",      "measured", "mended",   "missed",    "mixed",      "moved",      "named",    "needed",
    "noticed",   "obeyed",   "offered",  "ordered",   "owned",      "packed",     "paid",     "painted",
    "planted",   "played",   "polished", "praised",   "prepared",   "pressed",    "pulled",   "pushed",
    "raised",    "reached",  "read",     "received",  "refused",    "remembered", "repaired", "replaced",
    "rescued",   "returned", "ruined",   "saved",     "searched",   "sent",       "served",   "shared",
    "showed",    "shut",     "signed",   "sketched",  "smelled",    "stole",      "stopped",  "studied",
    "surprised", "tasted",   "taught",   "thanked",   "threw",      "tied",       "touched",  "traded",
    "trusted",   "turned",   "used",     "visited",   "wanted",     "warned",     "washed",   "welcomed",
    "wore",      "wrapped"};
static const char *const intrs[] = {
    "waited",   "slept",   "walked",    "ran",       "stood",  "sat",      "sang",      "danced",
    "laughed",  "cried",   "smiled",    "rested",    "worked", "lived",    "stayed",    "paused",
    "knelt",    "climbed", "fell",      "jumped",    "swam",   "sailed",   "travelled", "wandered",
    "hurried",  "marched", "shouted",   "whispered", "prayed", "trembled", "vanished",  "appeared",
    "lingered", "grew",    "hesitated", "listened",  "leaned", "gazed",    "rode",      "rowed"};

const char *const recall_forms[] = {
    "SNVDN.",         "SNIPDN.",        "SANVDN.",         "SANVDAN.",        "SANIPDN.",
    "SNVDNPDN.",      "SANRVDAN.",      "O,DNVDAN.",       "SANVDNPDN.",      "O,DANVDAN.",
    "SANVDANPDN.",    "O,DANRVDAN.",    "O,DNVDNPDAN.",    "SANVDANPDAN.",    "SANIPDN,CDNI.",
    "SNVDAN,CDNVDN.", "SANIPDN,CDANI.", "SANVDAN,CDNVDN.", "O,DANVDN,CDANI.", "SANVDAN,CDANVDN."};
const size_t recall_n_forms = sizeof recall_forms / sizeof *recall_forms;

const char *const *recall_words(enum recall_class c, size_t *n)
{
#define LIST(list) (*n = sizeof(list) / sizeof *(list), (list))
    switch (c) {
    case RECALL_START:
        return LIST(starts);
    case RECALL_OPEN:
        return LIST(opens);
    case RECALL_DET:
        return LIST(dets);
    case RECALL_ADJ:
        return LIST(adjs);
    case RECALL_NOUN:
        return LIST(nouns);
    case RECALL_VERB:
        return LIST(verbs);
    case RECALL_INTR:
        return LIST(intrs);
    case RECALL_PREP:
        return LIST(preps);
    case RECALL_ADVERB:
        return LIST(adverbs);
    case RECALL_CONJ:
        return LIST(conjs);
    case RECALL_FRAME:
        return LIST(frames);
    }
#undef LIST
    assert(!"no such word class");
    return NULL;
}

void recall_name(unsigned i, char out[RECALL_NAME_MAX])
{
    static const char first[] = "BDFGJKLMNRSTVZ", vowel[] = "aeiou", third[] = "lrvn";
    static const char *const ending[] = {"a", "an", "as", "e", "el", "et", "i", "id", "ir", "o", "ok", "or"};
    enum { N_FIRST = sizeof first - 1, N_VOWEL = 5, N_THIRD = 4, N_ENDING = 12 };
    _Static_assert(RECALL_N_NAMES == N_FIRST * N_VOWEL * N_THIRD * N_ENDING, "every combination is a name");
    assert(i < RECALL_N_NAMES);
    unsigned stem = i / N_ENDING;
    out[0] = first[stem % N_FIRST];
    out[1] = vowel[stem / N_FIRST % N_VOWEL];
    out[2] = third[stem / (N_FIRST * N_VOWEL)];
    strcpy(out + 3, ending[i % N_ENDING]);
}
