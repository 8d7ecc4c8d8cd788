"""Word lists of the English transformations: forms of verbs, and words that a question must not rest on.

Knows nothing of sentences.
"""

from __future__ import annotations

_PAST = """
became become | began begin | broke break | built build | came come | chose choose | drew draw | fell fall | fought
fight | found find | gave give | grew grow | held hold | led lead | left leave | lost lose | made make | met meet |
rose rise | sold sell | sent send | spoke speak | stood stand | took take | taught teach | went go | won win | wrote
write | bought buy | died die | moved move | founded found | defeated defeat | invaded invade | invented invent |
discovered discover | published publish | introduced introduce | released release | launched launch | opened open |
closed close | created create | established establish | designed design | developed develop | proved prove | signed
sign | joined join | arrived arrive | returned return | married marry | entered enter | captured capture | conquered
conquer | occupied occupy | declared declare | announced announce | acquired acquire | adopted adopt | abolished
abolish | appointed appoint | received receive | visited visit | attacked attack | started start | ended end | formed
form | issued issue | passed pass | produced produce | proposed propose | ratified ratify | retired retire | resigned
resign | settled settle | merged merge | surrendered surrender | translated translate | isolated isolate | landed land
| premiered premiere | debuted debut | aired air | purchased purchase | replaced replace | composed compose | directed
direct | painted paint | killed kill | assassinated assassinate | wed wed
"""
BASE_OF: dict[str, str] = {}
"""The infinitive of a past form."""
for _entry in _PAST.split("|"):
    _past, _base = _entry.split()
    BASE_OF[_past] = _base

_AGENTIVE = """
founded invented discovered written designed created developed composed directed painted led killed assassinated
commissioned established introduced proposed published produced built conquered captured defeated invaded translated
proved coined hosted conducted acquired purchased isolated crowned signed
"""
PAST_OF_PARTICIPLE = {word: word for word in _AGENTIVE.split()} | {"written": "wrote"}
"""The past form of participles of what somebody does: who is asked for."""

_PARTICIPLES_LIST = """
built made written held fought born begun bought brought chosen drawn driven given grown kept known laid left lost met
paid put sent set shot shown sold spent split struck sung sunk sworn taken taught thrown torn won found broken cut led
spread hung read run
"""
PARTICIPLES = frozenset(_PARTICIPLES_LIST.split())
"""Irregular participles; a regular one ends in "ed"."""

_NO_PARTICIPLES_LIST = """
need indeed speed seed breed feed hundred sacred red bed rapid aged naked wicked
"""
NO_PARTICIPLES = frozenset(_NO_PARTICIPLES_LIST.split())
"""Words that end like participles."""

_PRONOUNS_LIST = """
aforementioned mentioned i me my mine we us our ours you your yours he him his she her hers it its they them their
theirs himself herself itself themselves this that these those here there such who whom whose which what one ones same
other others another former latter above below following previous said both either neither each everything something
anything nothing someone anyone everyone so
"""
PRONOUNS = frozenset(_PRONOUNS_LIST.split())
"""Words that stand for something said elsewhere, or may do so."""

_NO_NOUNS_LIST = """
similar certain particular different various is are was were be been being has have had can could will would may might
must should do does did also still now then later once even just soon already together alone subsequently not never
almost nearly eventually reportedly allegedly supposedly apparently presumably purportedly probably possibly perhaps
maybe barely hardly scarcely ultimately nor
"""
NO_NOUNS = frozenset(_NO_NOUNS_LIST.split())
"""Verbs and adverbs, those that deny and doubt among them: what has one is more than a subject."""

_OPENERS_LIST = """
a about above according after afterwards again all almost already also although always among an and another any anyone
anything as aside at back because before below besides both but by compared consequently consider contrary despite do
does doing due during each either even every everything everyone except few finally first firstly for formerly from
furthermore generally given had has have having hence here how however if in including indeed initially instead just
last lastly later least let like likewise many maybe meanwhile more moreover most much my neither nevertheless next no
none nonetheless nor not nothing notice now of often on once one only or originally other others otherwise our out
over overall part perhaps presently rather recently remember second secondly several similarly since sir so some
someone something sometimes somewhere soon still such than thanks that their then there therefore these they third
this those though through throughout thus to today together too toward towards two three four five under unless unlike
until up upon usually very was were what whatever when whenever where whereas wherever whether which while who whoever
whose why will with within without yet you your its his her he she it we i half key additionally early eventually
currently elsewhere
"""
OPENERS = frozenset(_OPENERS_LIST.split())
"""Words with which no subject begins that a question can be asked about."""

_GENERIC_LIST = """
first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth episode episodes parliament court
committee army church university state government congress senate council company president king emperor queen act
treaty war party league union empire panel bill doctor constitution republic city county house school commission board
ministry minister assembly convention bishop pope prince duke governor general battle crown province district region
river north south east west northern southern eastern western castle island museum station college institute society
association club team game games season series show film album book event program programme project report reports
mission network channel group movement revolution reformation fort royal national centre center street road park hall
bridge cathedral committee's presiding officer executive scottish british english french german american chinese roman
european indian african asian spanish italian dutch russian japanese christian jewish muslim islamic mongol norman
bible law native americans capital village tower chapter section figure table example note warning tip info technical
details version type class function method parameter
"""
GENERIC = frozenset(_GENERIC_LIST.split())
"""Capitalized words that alone name nothing in particular."""

_VAGUE_HEADS_LIST = """
seat base terminus center centre birthplace site barrier land home hub place problem problems issue issues idea ideas
example examples result results reason reasons way ways matter question challenge success failure factor member thing
things case cases kind sort lot bit part point step sign time effort attempt consequence difference benefit advantage
disadvantage mistake choice must requirement concern solution source cause combination number variety series mix
mixture total majority minority couple few great good better best bad worse worst fact subject object topic target
beneficiary effect focus feature goal aim key little means mess winner pair rule opportunity favorite favourite same
opposite exception alternative equivalent default
"""
VAGUE_HEADS = frozenset(_VAGUE_HEADS_LIST.split())
"""Heads of predicates that say no more than an opinion, or that lean on what was said before."""

_OCCUPATIONS_LIST = """
attorney entrepreneur chef rapper coach nurse midwife cleric nun friar rabbi imam sailor aviator cyclist golfer boxer
wrestler skier skater jockey sprinter gymnast cricketer quarterback goalkeeper midfielder magnate socialite
philanthropist columnist blogger screenwriter filmmaker cinematographer cartoonist illustrator violinist drummer
bassist vocalist lyricist actor actress admiral activist anthropologist archbishop archaeologist architect artist
astronaut astronomer athlete author bishop biologist botanist businessman businesswoman cardinal chemist comedian
commander composer conductor critic dancer designer diplomat director doctor dramatist economist editor emperor
empress engineer essayist explorer general geologist governor guitarist historian inventor journalist judge king
knight lawyer leader linguist mathematician merchant missionary monk musician naturalist novelist painter philosopher
photographer physician physicist pianist playwright poet politician pope preacher priest princess prince producer
professor programmer psychologist queen reformer saint scholar scientist sculptor senator singer sociologist soldier
songwriter statesman swimmer teacher theologian theorist writer footballer player officer founder
"""
OCCUPATIONS = frozenset(_OCCUPATIONS_LIST.split())
"""What a person is: "who" is asked."""

_EVALUATIONS_LIST = """
best worst older newer larger smaller higher lower notable good great bad common same very more most such bit
important major key main popular perfect nice useful little significant
"""
EVALUATIONS = frozenset(_EVALUATIONS_LIST.split())
"""Words of a predicate by which it is an opinion, or one of several."""

_NO_EVENTS_LIST = """
known used called located based named considered held seen slated scheduled expected planned supposed
"""
NO_EVENTS = frozenset(_NO_EVENTS_LIST.split())
"""Participles of what does not happen at a time, or has not happened."""

_INTRANSITIVE_LIST = """
die begin end open close resign retire arrive return start surrender marry premiere debut fall rise
"""
INTRANSITIVE = frozenset(_INTRANSITIVE_LIST.split())
"""Verbs that need no object."""
