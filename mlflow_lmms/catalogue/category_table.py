"""Which category each benchmark folder of lmms-eval 0.7.3 belongs to, decided by hand, and words for the others.

Data alone. A path names a folder below lmms-eval's tasks folder; the deepest one that fits counts.
"""

from __future__ import annotations

#: Category → what it holds, as `mlflow-lmms catalog --help` says it.
CATEGORIES = {
    "agents": "screens, web pages, tools, games",
    "audio": "sounds and spoken language understanding",
    "captioning": "descriptions of images, videos, sounds",
    "charts": "charts, plots, tables, diagrams, infographics",
    "counting": "how many",
    "dialogue": "open-ended answers to people, instruction following",
    "documents": "documents, text in pictures, OCR",
    "egocentric": "first-person views",
    "embodied": "robots, driving, planning in the physical world",
    "general": "questions about pictures of all kinds",
    "generation": "making or editing pictures and videos",
    "grounding": "where in the picture: boxes, points, masks",
    "hallucination": "claims about what is not there",
    "knowledge": "exams and facts",
    "maths": "mathematics",
    "medical": "medicine",
    "multi-image": "several pictures at once",
    "multilingual": "several languages",
    "music": "music",
    "perception": "fine details, colours, quality, illusions",
    "physics": "physics and intuitive physics",
    "reasoning": "puzzles and logic",
    "reward": "judging answers of models",
    "safety": "harm and refusal",
    "science": "natural sciences",
    "spatial": "space, depth, directions",
    "speech": "speech recognition and translation",
    "video": "videos of all kinds",
    "video-long": "long videos",
    "video-temporal": "order and time in videos",
    "voice": "spoken questions and the speaker's voice",
}

_FOLDERS = {
    "agents": """browsecomp mmsearch mmsearch_plus osworld_g screenspot screenspot_pro screenspot_v2 tau2_bench
        vending_bench2 visualwebbench websrc""",
    "audio": """air_bench clotho_aqa mmar mmau mmsu vggsound vocalsound wavcaps av_odyssey omni_bench xmod_bench
        mix_evals/audio2text cn_college_listen_mcq dream_tts_mcq av_speakerbench""",
    "captioning": """capability captionqa coco_cap coco_cap_chair detailcaps flickr30k nocaps textcaps vatex vdc
        video_detail_description youcook2 dtcbench salbench internal_eval plm_videobench/rcap
        plm_videobench/rdcap""",
    "charts": """ai2d chartqa chartqapro charxiv infovqa livexiv_tqa livexiv_vqa prismm_bench seedbench_2_plus
        unig2u/chartqa100 iconqa structeditbench""",
    "counting": """cgav_counting countbench countbenchqa countix fsc147 ovr_kinetics pixmo_count pushupbench repcount
        jumpscore""",
    "dialogue": """alpaca_audio ifeval live_bench llava-bench-coco llava-in-the-wild llava_wilder mia_bench
        multilingual-llava-bench-in-the-wild vibe_eval wild_vision_bench mix_evals/image2text videochatgpt""",
    "documents": """cc_ocr docvqa dude mdpbench mmlongbench mmlongbench_doc mtvqa multidocvqa ocrbench ocrbench_v2
        omnidocbench officeqa slidevqa stvqa synthdog textvqa vcr_wiki""",
    "egocentric": "egoplan egoplan2 egoschema egotaskqa egotempo egothink hd_epic lemonade",
    "embodied": """embspatial erqa metavqa openxvqa paibench_u physical_ai_understanding robo_spatial sat where2place
        vantage_vqa wm_abench osi_bench refspatial""",
    "general": """blink conbench corecognition gqa gqa_ru hrbench ii_bench megabench mix_evals mle_bench mmbench mme
        mme_cc mme_realworld mmrefine mmstar mmt mmupd mmvet mmvetv2 mmvp naturalbench ok_vqa realworldqa seedbench
        seedbench_2 snsbench sunrgbd ueval visfactor vizwiz_vqa vmcbench vqav2 zerobench multi_crit viverbench
        crpe_relation worldvqa xlrs""",
    "generation": "WISE babyvision_gen gedit_bench imgedit kris_bench vbench vbvr mmie uni_mmmu",
    "grounding": """crosspoint_bench ferret groundingme odinw13 pointbench refcoco refcoco+ refcoco_grounding refcocog
        rvos saco""",
    "hallucination": "amber_g hallusion_bench pope vinoground vlms_are_biased",
    "knowledge": """arc cmmmu csbench gpqa hellaswag jmmmu jmmmu_pro k12 kaleidoscope mmlu mmlu_pro mmmu mmmu_pro
        mmworld simplevqa super_gpqa videommmu mmvu worldqa""",
    "maths": """aime auxsolidmath dynamath geometry3k gsm8k mathcanvas mathkangaroo mathverse mathvision mathvista
        olympiadbench olympiadbench_mimo openai_math videomathqa wemath unig2u/auxsolidmath unig2u/geometry3k""",
    "medical": "medqa slake",
    "multi-image": "llava_interleave_bench mantis mirb muirbench",
    "music": "muchomusic song_describer",
    "perception": """babyvision illusionbench illusionvqa qbench unig2u/illusionbench unig2u/babyvision
        vlmsareblind vstar_bench""",
    "physics": "hipho intphys2 mvp phyx physical_conflict seephys vpct unig2u/phyx",
    "reasoning": """VisualPuzzles arc_agi_1 arc_agi_2 c4_bench emma logicvista mme_cot realunify stare unig2u
        unig2u/visualpuzzles visres_bench visulogic cover""",
    "reward": "multimodal_rewardbench vl_rewardbench",
    "safety": "holisafe safety_redteam cuva",
    "science": "microvqa mme_sci mme_sci_image scibench scienceqa scivideobench",
    "spatial": """3dsrbench cv_bench mindcube mmsi_bench mmsi_video multihopspatial omni_spatial omnispatial revsi
        sis_bench sitebench sparbench spatial457 spatial_dise spatialtreebench spatialviz unig2u/mmsi unig2u/vsp
        viewspatial vsibench vsisuper""",
    "speech": """ami av_asr common_voice_15 covost2 europal_asr fleurs gigaspeech librispeech open_asr
        openslr_librispeech people_speech tedlium voxpopuli wenet_speech""",
    "video": """activitynetqa camerabench_vqa cvrr funqa minerva mmou motionbench mvbench neptune nextqa
        perceptioncomp perceptiontest plm_videobench tomato video-tt video_holmes videoevalpro videomme videomme_v2
        videonet mmr_v vcrbench vitatecs vstat worldsense ovobench mix_evals/video2text ssv2""",
    "video-long": """FALCONBench cgbench cinepile longtimescope longvideobench longvt lsdbench lvbench mlvu moviechat
        timescope vrbench""",
    "video-temporal": "charades_sta extremewhenbench tempcompass temporalbench timelens tvbench",
    "voice": "openhermes step2_audio_paralinguistic voicebench",
}

#: Folder → category; no folder stands twice.
FOLDERS = {folder: category for category, folders in _FOLDERS.items() for folder in folders.split()}

#: For folders that the table does not know (one's own, and later releases): the first line with a word that fits.
WORDS = (
    ("charts", r"chart|plot|graph|table|diagram|infograph|figure"),
    ("documents", r"doc(?!s?_to)|ocr|pdf|receipt|invoice|scene_?text|handwrit"),
    ("speech", r"\basr|_asr|transcri|speech_?rec|librispeech|speech_?trans"),
    ("music", r"music|song|melod"),
    ("voice", r"voice|speaker|spoken|paralingu"),
    ("medical", r"medic|medqa|radiolog|patholog|clinic|health|x_?ray"),
    ("maths", r"math|geometr|algebra|arithmetic|gsm8k|\baime"),
    ("physics", r"physic"),
    ("science", r"scien|chemi|biolog"),
    ("safety", r"safe|jailbreak|harm|toxic|red_?team"),
    ("hallucination", r"hallu|pope\b"),
    ("reward", r"reward|preference|judge_bench"),
    ("counting", r"count"),
    ("grounding", r"ground|refer|refcoco|detect|segment|bbox|pointing|locali[sz]"),
    ("spatial", r"spatial|depth|3d|distance|direction"),
    ("egocentric", r"\bego|egocentric|first_?person"),
    ("embodied", r"robot|embod|driving|navigat"),
    ("agents", r"agent|screen|gui\b|web|tool_?use|browser"),
    ("generation", r"edit|generation|gen_?bench|text_?to_?(?:image|video)|\bt2[iv]\b"),
    ("captioning", r"caption|describ|\bcap\b|_cap_"),
    ("video-long", r"long_?video|hour|movie"),
    ("video-temporal", r"tempor|moment"),
    ("multi-image", r"multi_?ima?ge?|interleav"),
    ("multilingual", r"multiling"),
    ("knowledge", r"mmlu|mmmu|exam|knowledge|trivia|college|school"),
    ("reasoning", r"puzzle|logic|reason|\biq\b|arc_agi"),
    ("dialogue", r"dialog|chat|instruct|conversation|in_the_wild"),
    ("perception", r"percept|illusion|colou?r|quality|digit"),
    ("general", r"vqa|question"),
)

#: When no word fits, but the medium is known.
BY_MODALITY = {"video": "video", "audio": "audio"}
