-- The words of captions that the rules of failure_kinds use. A word is in a list, with the value that it shares with its
-- synonyms. Words are in lower case; two words are a phrase, and the single words of a phrase are not matched.
--
-- Lists:
-- colour, size, count: about the thing that follows; count 'many' is three or more.
-- place, posture: about the thing before; place is the position in the image, and postures exclude one another.
-- relation: between the thing before and the thing after; `opposite` is the relation in the other direction.
-- sex: of a person.
-- link: words that end the reach of an adjective.
-- coco: the 80 categories of COCO's instances and their synonyms in captions. scenes: those of the drawn scenes.
-- Plurals of category names are folded by singular().
CREATE OR REPLACE VIEW words AS
WITH lists (list, value, words) AS (
    VALUES
    ('colour', 'red', 'red crimson scarlet maroon'), ('colour', 'orange', 'orange amber'),
    ('colour', 'yellow', 'yellow golden blonde blond'), ('colour', 'green', 'green emerald'),
    ('colour', 'blue', 'blue azure cobalt navy turquoise'), ('colour', 'purple', 'purple violet lavender'),
    ('colour', 'pink', 'pink rosy'), ('colour', 'brown', 'brown chestnut tan beige'), ('colour', 'black', 'black'),
    ('colour', 'white', 'white'), ('colour', 'grey', 'grey gray silver'),
    ('size', 'small', 'small little tiny dainty petite miniature'),
    ('size', 'big', 'big large giant mighty huge enormous'),
    ('count', '1', 'a an one single lone solitary'), ('count', '2', 'two both couple pair 2'),
    ('count', '3', 'three trio 3'), ('count', '4', 'four quartet 4'), ('count', '5', 'five 5'), ('count', '6', 'six 6'),
    ('count', 'many', 'some several many multiple gathering group number bunch herd flock crowd various numerous lots'),
    ('place', 'top left', 'top_left upper_left north_west'), ('place', 'top right', 'top_right upper_right north_east'),
    ('place', 'bottom left', 'bottom_left lower_left south_west'),
    ('place', 'bottom right', 'bottom_right lower_right south_east'),
    ('posture', 'standing', 'standing stands stand'), ('posture', 'sitting', 'sitting sits sit seated perched'),
    ('posture', 'lying', 'lying lies laying lays sleeping sleeps asleep resting'),
    ('posture', 'walking', 'walking walks walk'), ('posture', 'running', 'running runs'),
    ('posture', 'jumping', 'jumping jumps leaping'), ('posture', 'riding', 'riding rides ride'),
    ('posture', 'flying', 'flying flies'),
    ('relation', 'beside', 'beside near by next_to alongside'), ('relation', 'on', 'on upon atop top_of onto'),
    ('relation', 'inside', 'inside into'),
    ('relation', 'left of', 'left_of west_of'), ('relation', 'right of', 'right_of east_of'),
    ('relation', 'above', 'above over north_of'), ('relation', 'below', 'below under beneath underneath south_of'),
    ('relation', 'before', 'front_of'), ('relation', 'behind', 'behind'),
    ('sex', 'male', 'man men boy boys guy guys gentleman male'),
    ('sex', 'female', 'woman women girl girls lady ladies female'),
    ('link', '', 'the with in at from to that which is are as while his her its their'),
    ('coco', 'person', 'people man men woman women boy girl child children kid guy lady baby player skier surfer '
        || 'skateboarder snowboarder rider batter pitcher catcher cyclist pedestrian gentleman toddler '
        || 'teenager adult'),
    ('coco', 'bicycle', 'bike cyclist'), ('coco', 'car', 'automobile taxi suv sedan'),
    ('coco', 'motorcycle', 'motorbike motor_bike moped scooter'), ('coco', 'airplane', 'plane jet aeroplane aircraft airliner jetliner'),
    ('coco', 'bus', 'buse double_decker'), ('coco', 'train', 'locomotive'), ('coco', 'truck', 'pickup lorry'),
    ('coco', 'boat', 'ship sailboat canoe kayak'), ('coco', 'traffic light', 'stop_light stoplight street_light traffic_signal'),
    ('coco', 'fire hydrant', 'hydrant'), ('coco', 'stop sign', 'stopsign'), ('coco', 'parking meter', ''),
    ('coco', 'bench', ''), ('coco', 'bird', 'seagull duck pigeon parrot geese goose owl'), ('coco', 'cat', 'kitten kitty'),
    ('coco', 'dog', 'puppy pup'), ('coco', 'horse', 'pony foal'), ('coco', 'sheep', 'lamb ram'),
    ('coco', 'cow', 'cattle bull calf oxen ox calve'), ('coco', 'elephant', ''), ('coco', 'bear', 'polar_bear'),
    ('coco', 'zebra', ''), ('coco', 'giraffe', ''), ('coco', 'backpack', ''), ('coco', 'umbrella', 'parasol'),
    ('coco', 'handbag', 'purse'), ('coco', 'tie', 'necktie'), ('coco', 'suitcase', 'luggage'), ('coco', 'frisbee', ''),
    ('coco', 'skis', 'ski'), ('coco', 'snowboard', 'snow_board'), ('coco', 'sports ball', 'ball soccer_ball tennis_ball'),
    ('coco', 'kite', ''), ('coco', 'baseball bat', 'bat'), ('coco', 'baseball glove', 'mitt'),
    ('coco', 'skateboard', 'skate_board'), ('coco', 'surfboard', 'surf_board'), ('coco', 'tennis racket', 'racket racquet tennis_racquet'),
    ('coco', 'bottle', ''), ('coco', 'wine glass', ''), ('coco', 'cup', 'mug'), ('coco', 'fork', ''),
    ('coco', 'knife', 'knive'), ('coco', 'spoon', ''), ('coco', 'bowl', ''), ('coco', 'banana', ''), ('coco', 'apple', ''),
    ('coco', 'sandwich', 'burger hamburger'), ('coco', 'orange', ''), ('coco', 'broccoli', ''), ('coco', 'carrot', ''),
    ('coco', 'hot dog', 'hotdog'), ('coco', 'pizza', ''), ('coco', 'donut', 'doughnut'), ('coco', 'cake', 'cupcake'),
    ('coco', 'chair', ''), ('coco', 'couch', 'sofa'), ('coco', 'potted plant', 'houseplant'), ('coco', 'bed', ''),
    ('coco', 'dining table', 'table'), ('coco', 'toilet', ''), ('coco', 'tv', 'television'),
    ('coco', 'laptop', 'laptop_computer'), ('coco', 'mouse', ''), ('coco', 'remote', 'remote_control controller wii_remote'),
    ('coco', 'keyboard', ''), ('coco', 'cell phone', 'phone cellphone smartphone'), ('coco', 'microwave', ''),
    ('coco', 'oven', 'stove'), ('coco', 'toaster', ''), ('coco', 'sink', ''), ('coco', 'refrigerator', 'fridge'),
    ('coco', 'book', ''), ('coco', 'clock', ''), ('coco', 'vase', ''), ('coco', 'scissors', 'scissor'),
    ('coco', 'teddy bear', 'teddy'), ('coco', 'hair drier', 'hair_dryer blow_dryer'), ('coco', 'toothbrush', ''),
    ('scenes', 'circle', 'dot disc orb'), ('scenes', 'ring', 'hoop'), ('scenes', 'crescent', 'moon sickle'),
    ('scenes', 'heart', 'valentine'), ('scenes', 'square', 'block tile'), ('scenes', 'triangle', 'wedge'),
    ('scenes', 'diamond', 'lozenge'), ('scenes', 'star', 'sparkle'), ('scenes', 'cross', 'plus pluse'),
    ('scenes', 'arrow', 'pointer')
),
opposites (value, opposite) AS (
    VALUES ('beside', 'beside'), ('on', 'carrying'), ('inside', 'around'), ('left of', 'right of'), ('right of', 'left of'), ('above', 'below'),
        ('below', 'above'), ('before', 'behind'), ('behind', 'before')
),
entries AS (
    SELECT list, value, unnest(string_split(words, ' ')) AS word FROM lists WHERE words != ''
    UNION
    SELECT list, value, value FROM lists WHERE list IN ('coco', 'scenes')
)
SELECT DISTINCT list, entries.value, replace(word, '_', ' ') AS word, opposite
FROM entries
LEFT JOIN opposites ON list = 'relation' AND opposites.value = entries.value;
