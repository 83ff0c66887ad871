"""Our own word lists, from which the tasks make keys, names and sentences. Only names begin with a capital."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Adjectives and nouns make the word keys "brave otter".
ADJECTIVES = _words("""
    able amber ample bold brave brief bright brisk broad calm clean clear clever close cold cool crisp curly
    dark deep dense dry early easy even faint fair fast fine firm fleet fond frank free fresh full gentle glad
    golden good grand great green grey happy hardy heavy high honest humble jolly keen kind large late lean
    light little lively long loud loyal lucky mellow merry mild modest neat new noble old olive open orange pale
    patient plain polite proud pure quick quiet rapid rare ready red rich ripe robust rosy rough round royal
    sandy scarlet sharp shiny short silent silver simple slim slow small smooth snowy sober soft solid sound
    spare spicy steady steep still strict strong sturdy subtle sunny sweet swift tall tame tender thick thin
    tidy tiny tough true urban usual vast vivid warm wide wild wise witty young
""")
NOUNS = _words("""
    acorn anchor apple arrow badger bagel bakery balcony barrel basin basket beacon beaver bell bench berry
    blanket bottle boulder bridge brook brush bucket button cabin candle canoe canyon carpet castle cedar chair
    cherry chimney circle cliff clock cloud comet compass copper coral cottage cotton crane cricket crystal
    curtain daisy desk dragon drum eagle elbow engine falcon feather fence ferry fiddle flame flute forest
    fountain fox garden garlic gate ginger glacier glove goose grape hammer harbor harp hazel helmet heron hill
    honey horse island ivory jacket jasmine jungle kettle kitten ladder lagoon lamp lantern lemon lily lizard
    llama lobster lotus magnet maple marble meadow melon mirror mitten monkey mountain mushroom napkin needle
    nest oasis ocean olive onion orchard otter owl oyster paddle panda parrot pebble pencil pepper piano pillow
    pine planet plum pocket pond poppy potato prairie puzzle quilt rabbit radish raven ribbon river robin rocket
    rose saddle salmon sandal shell shovel sparrow spider spoon squirrel stable statue stone summit sunset swan
    table tower trumpet tulip tunnel turtle valley velvet violin wagon walnut whale willow window winter wolf
    yarn zebra
""")
NAMES = _words("""
    Ada Alma Anton Aron Basil Bella Boris Bruno Carla Cleo Clara Conrad Cora Dana Dora Edgar Edith Elsa Emil
    Ernst Esme Fabio Felix Fiona Flora Frida Gerd Gina Greta Gustav Hanna Heidi Henri Hugo Ida Igor Irma Isak
    Ivan Jana Jasper Jonas Judith Karl Katja Klara Kurt Lara Lena Linus Lotte Luca Lukas Maja Marco Marta Max
    Mila Milo Mona Nadia Nina Nora Olga Oscar Otto Paula Petra Pia Rita Roman Rosa Rufus Selma Simon Sofia
    Stella Sven Tara Theo Tilda Tom Ulla Uma Vera Victor Wanda Wilma Yara Yuri Zita Zora
""")
PLACES = _words("""
    attic balcony barn bathroom bedroom cellar chapel corridor courtyard garage garden hall hallway kitchen
    laundry library lobby museum office orchard pantry park school stable station studio workshop yard
""")
OBJECTS = _words("""
    apple ball bottle box book brush bucket candle coat coin cup doll fork hammer hat jug key kite knife lamp
    map milk mirror paper pen plate ring rope scarf shoe spoon stone ticket towel umbrella vase violin watch
""")
VERBS = _words("""
    admire avoid borrow bring carry carve catch choose clean collect cover draw drop fetch find follow gather
    guard hide hold keep lift mend move notice open paint pass place polish print push raise repair replace save
    seek send share show stack store study take trace trade wash watch weigh wrap
""")
