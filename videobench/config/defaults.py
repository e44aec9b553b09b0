"""Every configuration key with its default and one line on what it does.

Names and meanings follow SlowFast-like code bases, so that their YAML files and command lines keep working.
Keys of those code bases that do nothing here are listed in :mod:`videobench.config.legacy`.
"""

from fvcore.common.config import CfgNode

_C = CfgNode()

# Folder of checkpoints, logs and results; created when missing.
_C.OUTPUT_DIR = "./output"
# Seed of everything random: weights, order of samples, clips, crops. Rank r uses independent streams derived from it.
_C.RNG_SEED = 1
# GPUs per machine; 0 runs on the CPU.
_C.NUM_GPUS = 1
# Processes per machine when NUM_GPUS is 0.
_C.NUM_CPU_RANKS = 1
# Machines.
_C.NUM_SHARDS = 1
# Index of this machine.
_C.SHARD_ID = 0
# torch.distributed backend on GPUs (CPU runs use gloo).
_C.DIST_BACKEND = "nccl"
_C.DIST = CfgNode()
# Seconds that ranks wait for each other, when they come together and when none of them gets on, before the run ends.
_C.DIST.TIMEOUT = 1800.0
# Steps between log lines, and the window of the medians in them.
_C.LOG_PERIOD = 10

# ---------------------------------------------------------------------------------------------------------------------
_C.MODEL = CfgNode()
# Network: Uniformer, Uniformer_light_fp32, Uniformer_light_ls_fp32, MorphMLP, MorphMLP_32, MorphMLP_image, MViT,
# VisionTransformer (Motionformer) or MoViNet.
_C.MODEL.MODEL_NAME = "Uniformer"
# Classifier outputs (EPIC-Kitchens networks have fixed verb and noun heads instead).
_C.MODEL.NUM_CLASSES = 400
# Order of the classes of published weights, which do not name them, in the forms of DATA.CLASS_NAMES; where that has
# another order, the classifier is renumbered by name. Empty means the order of the labels.
_C.MODEL.CHECKPOINT_CLASSES = ""
# Dropout before the classifier (MViT and MoViNet; the other families take no notice, as published).
_C.MODEL.DROPOUT_RATE = 0.5
# Training loss: cross_entropy (class numbers), soft_cross_entropy (mixed or smoothed targets), or bce, also bce_logit
# (several labels; the sigmoid is part of both).
_C.MODEL.LOSS_FUNC = "cross_entropy"
# Recompute activations in the backward pass instead of storing them, for the blocks counted by CHECKPOINT_NUM.
_C.MODEL.USE_CHECKPOINT = False
# Leading blocks of each stage to recompute: one number per stage, or one for all stages; -1 means every block.
_C.MODEL.CHECKPOINT_NUM = [0, 0, 0, 0]
# SlowFast's switch: recompute every block (the same as USE_CHECKPOINT with CHECKPOINT_NUM -1).
_C.MODEL.ACT_CHECKPOINT = False
# Keep the statistics of batch norms as they are in training (scales and shifts are trained all the same).
_C.MODEL.FROZEN_BN = False

# ---------------------------------------------------------------------------------------------------------------------
_C.UNIFORMER = CfgNode()
# Channels per stage.
_C.UNIFORMER.EMBED_DIM = [64, 128, 320, 512]
# Blocks per stage.
_C.UNIFORMER.DEPTH = [3, 4, 8, 3]
# Channels per attention head.
_C.UNIFORMER.HEAD_DIM = 64
# Hidden size of the MLPs over their width: one number, or one per stage (light models).
_C.UNIFORMER.MLP_RATIO = 4
# Bias in the query/key/value projection.
_C.UNIFORMER.QKV_BIAS = True
# Attention scale; None or 0 means HEAD_DIM ** -0.5.
_C.UNIFORMER.QKV_SCALE = None
# Dropout in MLPs, projections and after the first patch embedding.
_C.UNIFORMER.DROPOUT_RATE = 0.0
# Dropout on attention weights.
_C.UNIFORMER.ATTENTION_DROPOUT_RATE = 0.0
# Largest stochastic-depth rate (linear over the blocks).
_C.UNIFORMER.DROP_DEPTH_RATE = 0.1
# Separate temporal and spatial attention in stages 3 and 4.
_C.UNIFORMER.SPLIT = False
# Temporal kernel 3 in the later patch embeddings.
_C.UNIFORMER.STD = False
# Light models: share of the tokens each block keeps, one list per stage.
_C.UNIFORMER.PRUNE_RATIO = [[], [], [1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
# Light models: weight of a block's own scores in the running token score, one list per stage.
_C.UNIFORMER.TRADE_OFF = [[], [], [1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
# Light model with layer scale: its start value.
_C.UNIFORMER.INIT_VALUE = 0.1

# ---------------------------------------------------------------------------------------------------------------------
_C.MORPH = CfgNode()
# Blocks per stage.
_C.MORPH.LAYERS = [4, 3, 8, 3]
# Whether a downsampling layer follows a stage (there is always one where the channels change).
_C.MORPH.TRANSITIONS = [True, False, False, False]
# Chunk length of the spatial mixing per stage.
_C.MORPH.SEGMENT_DIM = [32, 16, 16, 16]
# Hidden size of the MLPs over their width, per stage.
_C.MORPH.MLP_RATIOS = [3.0, 3.0, 3.0, 3.0]
# Channels per stage.
_C.MORPH.EMBED_DIMS = [192, 384, 384, 384]
# Bias of the mixing layers.
_C.MORPH.QKV_BIAS = True
# Largest stochastic-depth rate (linear over the blocks).
_C.MORPH.DROP_DEPTH_RATE = 0.1

# ---------------------------------------------------------------------------------------------------------------------
_C.MVIT = CfgNode()
# Pooling operator of q, k, v: conv, conv_unshared, max or avg.
_C.MVIT.MODE = "conv"
# Pool before the q/k/v projection.
_C.MVIT.POOL_FIRST = False
# Use a class token.
_C.MVIT.CLS_EMBED_ON = True
# Mean of the tokens instead of the class token in front of the classifier.
_C.MVIT.USE_MEAN_POOLING = False
# Image patch embedding (no time axis).
_C.MVIT.PATCH_2D = False
# Kernel, stride and padding of the patch convolution.
_C.MVIT.PATCH_KERNEL = [3, 7, 7]
_C.MVIT.PATCH_STRIDE = [2, 4, 4]
_C.MVIT.PATCH_PADDING = [2, 4, 4]
# Channels of the first block.
_C.MVIT.EMBED_DIM = 96
# Heads of the first block.
_C.MVIT.NUM_HEADS = 1
# Hidden size of the MLPs over their width.
_C.MVIT.MLP_RATIO = 4.0
# Bias in the q/k/v projection.
_C.MVIT.QKV_BIAS = True
# Largest stochastic-depth rate (linear over the blocks).
_C.MVIT.DROPPATH_RATE = 0.1
# Dropout inside blocks and after the position embedding.
_C.MVIT.DROPOUT_RATE = 0.0
# Number of blocks.
_C.MVIT.DEPTH = 16
# Pairs [block, factor] where channels grow.
_C.MVIT.DIM_MUL = []
# Pairs [block, factor] where the number of heads grows.
_C.MVIT.HEAD_MUL = []
# Grow channels in the attention projection instead of the MLP.
_C.MVIT.DIM_MUL_IN_ATT = False
# Rows [block, strides...] of key/value pooling.
_C.MVIT.POOL_KV_STRIDE = []
# First key/value stride, divided by the query stride from block to block; takes the place of POOL_KV_STRIDE.
_C.MVIT.POOL_KV_STRIDE_ADAPTIVE = None
# Rows [block, strides...] of query pooling.
_C.MVIT.POOL_Q_STRIDE = []
# Pooling kernel of q, k, v; None means stride + 1 where the stride is above 1.
_C.MVIT.POOL_KVQ_KERNEL = None
# Weight-decay exemption of position embeddings and class token.
_C.MVIT.ZERO_DECAY_POS_CLS = True
# Norm after the patch embedding.
_C.MVIT.NORM_STEM = False
# Separate absolute embeddings for space, time and class token.
_C.MVIT.SEP_POS_EMBED = False
# Absolute position embedding.
_C.MVIT.USE_ABS_POS = True
# Decomposed relative position embedding in space and in time.
_C.MVIT.REL_POS_SPATIAL = False
_C.MVIT.REL_POS_TEMPORAL = False
# Start the relative position embedding at zero.
_C.MVIT.REL_POS_ZERO_INIT = False
# Add the pooled query to the attention output.
_C.MVIT.RESIDUAL_POOLING = False
# Three projections for q, k, v instead of one.
_C.MVIT.SEPARATE_QKV = False
# Scale of the initial classifier weights.
_C.MVIT.HEAD_INIT_SCALE = 1.0

# ---------------------------------------------------------------------------------------------------------------------
_C.VIT = CfgNode()
# Side of a patch in pixels.
_C.VIT.PATCH_SIZE = 16
# Frames per tube.
_C.VIT.PATCH_SIZE_TEMP = 2
# Input channels.
_C.VIT.CHANNELS = 3
# Width of the tokens.
_C.VIT.EMBED_DIM = 768
# Number of blocks.
_C.VIT.DEPTH = 12
# Attention heads.
_C.VIT.NUM_HEADS = 12
# Hidden size of the MLPs over their width.
_C.VIT.MLP_RATIO = 4
# Bias in the query/key/value projection.
_C.VIT.QKV_BIAS = True
# Number of time positions (NUM_FRAMES / PATCH_SIZE_TEMP).
_C.VIT.TEMPORAL_RESOLUTION = 8
# Extra linear layer and HEAD_ACT in front of the classifier.
_C.VIT.USE_MLP = False
# Activation of that layer: tanh or gelu.
_C.VIT.HEAD_ACT = "tanh"
# Dropout in blocks, after the position embedding, on attention weights and before the classifier.
_C.VIT.DROP = 0.0
_C.VIT.POS_DROPOUT = 0.0
_C.VIT.ATTN_DROPOUT = 0.0
_C.VIT.HEAD_DROPOUT = 0.0
# Largest stochastic-depth rate (linear over the blocks).
_C.VIT.DROP_PATH = 0.0
# Position embedding: separate (space + time) or joint.
_C.VIT.POS_EMBED = "separate"
# Attention: trajectory, joint or divided.
_C.VIT.ATTN_LAYER = "trajectory"
# Trajectory attention as first published (True) or with the fixed values (False).
_C.VIT.USE_ORIGINAL_TRAJ_ATTN_CODE = True

# ---------------------------------------------------------------------------------------------------------------------
_C.MOVINET = CfgNode()
# Size: A0 to A5.
_C.MOVINET.VARIANT = "A0"
# Causal convolutions: the network can run as a stream.
_C.MOVINET.CAUSAL = False
# Convolutions: 3d, or 2plus1d (spatial, then temporal).
_C.MOVINET.CONV_TYPE = "3d"
# TensorFlow's asymmetric padding, as the converted published weights want it.
_C.MOVINET.TF_LIKE = True
# Positional encoding in the squeeze-and-excitation of causal A3 to A5.
_C.MOVINET.POSITIONAL_ENCODING = False
# Causal networks: pieces that a training clip is fed in, each with a backward pass of its own; the loss is their mean.
_C.MOVINET.TRAIN_SUBCLIPS = 1

# ---------------------------------------------------------------------------------------------------------------------
_C.DATA = CfgNode()
# Folder with the list files of the data set, or with the folders train, val and test.
_C.DATA.PATH_TO_DATA_DIR = ""
# Folder put in front of every path of the list files.
_C.DATA.PATH_PREFIX = ""
# Between path and label in a list file.
_C.DATA.PATH_LABEL_SEPARATOR = " "
# Class names by number: a file in any form of DATASET.md, a list of such files, or kinetics400, kinetics600
# (alphabetical), kinetics400_uniformer, kinetics600_uniformer or something_something; empty means class numbers only.
_C.DATA.CLASS_NAMES = ""
# Several classes per video, in the label field of the list with ";" between them.
_C.DATA.MULTI_LABEL = False
# What Something-Something (sth, ssv2), hmdb and epickitchens are read from: frames (extracted) or videos (files).
_C.DATA.STORED_AS = "frames"
# Name of a list of frame folders in PATH_TO_DATA_DIR, with {} for train or validation.
_C.DATA.LABEL_PATH_TEMPLATE = "somesomev1_rgb_{}_split.txt"
# Name of a frame in its folder; frames are counted from 1.
_C.DATA.IMAGE_TEMPLATE = "{:05d}.jpg"
# imagenet: folder with train.json and val.json, lists of {"im_path", "class"}, instead of class folders.
_C.DATA.PATH_TO_PRELOAD_IMDB = ""
# Frames per clip (T).
_C.DATA.NUM_FRAMES = 8
# Stride between the frames of a clip.
_C.DATA.SAMPLING_RATE = 8
# Frame rate at which SAMPLING_RATE is counted, for the rules that count time.
_C.DATA.TARGET_FPS = 30
# Which frames a clip takes: time (stride at TARGET_FPS), native (stride in frames of the file), or a published rule:
# uniformer_decord, slowfast_torchvision, morphmlp_torchvision, motionformer_pyav, uniformer_pyav, segments_sth,
# segments_ssv2, epic. auto is that of the data set: time, or segments_sth (sth), segments_ssv2 (ssv2), epic
# (epickitchens), native (hmdb).
_C.DATA.SAMPLING_RULE = "auto"
# Published rules only: spread test clips so that first and last touch the ends; a single clip is the middle one.
_C.DATA.USE_OFFSET_SAMPLING = True
# Library that decodes videos: pyav, or torchcodec (where installed).
_C.DATA.DECODING_BACKEND = "pyav"
# Where it is kept which packets of the files hold the frames, so that no file is read through twice: auto (a file
# beside the list, if that folder can be written to), off, or the path of a file.
_C.DATA.INDEX_CACHE = "auto"
# Share of the training videos of an epoch that may fail to decode before the run stops.
_C.DATA.MAX_FAILED_FRACTION = 0.01
# Input channels, one number per pathway (every network here has one pathway).
_C.DATA.INPUT_CHANNEL_NUM = [3]
# Mean subtracted from, and divisor of, the pixels scaled to [0, 1], per channel.
_C.DATA.MEAN = [0.45, 0.45, 0.45]
_C.DATA.STD = [0.225, 0.225, 0.225]
# Range of the short side that training videos are resized to; with one test crop its first value is the short side.
_C.DATA.TRAIN_JITTER_SCALES = [256, 320]
# Draw the training short side uniformly in 1/size instead of in size.
_C.DATA.INV_UNIFORM_SAMPLE = False
# Area and aspect-ratio range of the random resized crop; empty lists mean short-side jitter and a random crop.
_C.DATA.TRAIN_JITTER_SCALES_RELATIVE = []
_C.DATA.TRAIN_JITTER_ASPECT_RELATIVE = []
# Side of the square crops; TRAIN_CROP_SIZE is also the input size the network is built for.
_C.DATA.TRAIN_CROP_SIZE = 224
_C.DATA.TEST_CROP_SIZE = 224
# Images: share of the resized picture that the test crop covers; 0 resizes the whole picture to the crop's size.
_C.DATA.VAL_CROP_RATIO = 0.875
# Average over all pixels that fall into one when videos get smaller; False is the published form, which takes four.
_C.DATA.ANTIALIAS = True
# Horizontal flip with probability 0.5 in training (switch off where left and right mean something).
_C.DATA.RANDOM_FLIP = True
# Pairs of classes that a flip turns into each other, as [[0, 1]] for "moving left" and "moving right".
_C.DATA.FLIP_LABEL_PAIRS = []
# Swap the channel order (RGB to BGR) as the last step before the network.
_C.DATA.REVERSE_INPUT_CHANNEL = False
# Motionformer's augmentation of a clip: brightness, contrast and saturation of normalised frames by up to 0.4, with
# probability 0.8 (for the same on pixels see AUG.COLOR_JITTER); grey frames, with probability 0.2; Gaussian blur, with
# probability 0.5.
_C.DATA.COLORJITTER = False
_C.DATA.GRAYSCALE = False
_C.DATA.GAUSSIAN = False
# How the scores of a video's views are combined: sum or max.
_C.DATA.ENSEMBLE_METHOD = "sum"

# ---------------------------------------------------------------------------------------------------------------------
_C.AUG = CfgNode()
# Augment training clips by the keys of this section.
_C.AUG.ENABLE = False
# RandAugment or AutoAugment in timm's grammar (rand-m7-n4-mstd0.5-inc1, v0, original, ...); empty means neither.
_C.AUG.AA_TYPE = "rand-m9-mstd0.5-inc1"
# Jitter of brightness, contrast and saturation by up to this share, where AA_TYPE is empty.
_C.AUG.COLOR_JITTER = 0.4
# Interpolation of AA_TYPE's geometric operations: bilinear, bicubic, or random (one of them per operation and clip).
_C.AUG.INTERPOLATION = "bicubic"
# Probability of random erasing per clip.
_C.AUG.RE_PROB = 0.25
# What fills erased boxes: pixel (normal noise), rand (a normal colour per frame) or const (the mean colour).
_C.AUG.RE_MODE = "pixel"
# Largest number of erased boxes.
_C.AUG.RE_COUNT = 1
# Where AA_TYPE, COLOR_JITTER and DATA.GAUSSIAN run: cpu (loader workers), gpu, or auto (gpu where there is one).
_C.AUG.DEVICE = "auto"
# Training clips made of one decoded video, each cropped and augmented on its own; a step has that many more clips.
_C.AUG.NUM_SAMPLE = 1
# Take other frames for each of them (still from one decode); False is published: other crops of the same frames.
_C.AUG.RESAMPLE_FRAMES = False

# ---------------------------------------------------------------------------------------------------------------------
_C.MIXUP = CfgNode()
# Mix the clips of a batch and train on soft targets (needs a MODEL.LOSS_FUNC that takes them).
_C.MIXUP.ENABLE = False
# Parameters of the Beta distributions that mixup and cutmix draw their shares from; 0 switches one of them off.
_C.MIXUP.ALPHA = 0.8
_C.MIXUP.CUTMIX_ALPHA = 1.0
# Probability of mixing at all (0 leaves the label smoothing), and of cutmix instead of mixup where both are on.
_C.MIXUP.PROB = 1.0
_C.MIXUP.SWITCH_PROB = 0.5
# What shares one draw: batch, pair (of partners), or elem (every sample has its own).
_C.MIXUP.MODE = "batch"
# Label smoothing of the mixed targets.
_C.MIXUP.LABEL_SMOOTH_VALUE = 0.1

# ---------------------------------------------------------------------------------------------------------------------
_C.EPICKITCHENS = CfgNode()
# Folder of the official csv files, and of the frames or videos; empty: PATH_TO_DATA_DIR, PATH_PREFIX of DATA.
_C.EPICKITCHENS.ANNOTATIONS_DIR = ""
_C.EPICKITCHENS.VISUAL_DATA_DIR = ""
# Lists of actions; the name of a pickle stands for the csv file of the same name.
_C.EPICKITCHENS.TRAIN_LIST = "EPIC_100_train.csv"
_C.EPICKITCHENS.VAL_LIST = "EPIC_100_validation.csv"
_C.EPICKITCHENS.TEST_LIST = "EPIC_100_validation.csv"

# ---------------------------------------------------------------------------------------------------------------------
_C.DATA_LOADER = CfgNode()
# Loader worker processes per rank; -1 shares the machine's cores among its ranks, 0 loads in the main process.
_C.DATA_LOADER.NUM_WORKERS = -1
# Training batches that workers load ahead (at least two videos per worker).
_C.DATA_LOADER.PREFETCH = 2
# Seconds that a worker may take to read one video before it counts as unreadable; 0 means any time.
_C.DATA_LOADER.TIMEOUT = 300.0
# Copy clips and views to a GPU through pinned memory, without waiting.
_C.DATA_LOADER.PIN_MEMORY = True

# ---------------------------------------------------------------------------------------------------------------------
_C.TRAIN = CfgNode()
# Run training.
_C.TRAIN.ENABLE = True
# Data set: kinetics, ucf101 (lists of videos), sth, ssv2 (Something-Something), hmdb (frame folders), epickitchens,
# imagenet, image_folder, video_folder (a folder per class); upper or lower case.
_C.TRAIN.DATASET = "kinetics"
# Videos per machine and step.
_C.TRAIN.BATCH_SIZE = 64
# Epochs between validations and between checkpoints (the last epoch always has both).
_C.TRAIN.EVAL_PERIOD = 10
_C.TRAIN.CHECKPOINT_PERIOD = 10
# Steps between checkpoints within an epoch (the newest two stay); 0 means none.
_C.TRAIN.CHECKPOINT_STEPS = 0
# Checkpoints of finished epochs that stay, besides the best one; 0 keeps all.
_C.TRAIN.KEEP_CHECKPOINTS = 0
# Continue from the last checkpoint of OUTPUT_DIR.
_C.TRAIN.AUTO_RESUME = True
# Initial weights, or a checkpoint to continue from.
_C.TRAIN.CHECKPOINT_FILE_PATH = ""
# Take only the weights of CHECKPOINT_FILE_PATH: start at epoch 0 with a fresh optimizer.
_C.TRAIN.CHECKPOINT_EPOCH_RESET = False
# How 2D kernels of initial weights become 3D: mean (divided by the length), repeat (not divided) or centre.
_C.TRAIN.CHECKPOINT_INFLATION = "mean"
# Arithmetic of forward and backward pass: fp32, bf16 or fp16 (with a gradient scaler; GPUs only).
_C.TRAIN.PRECISION = "fp32"
# Let float32 products and convolutions of training round their inputs to TF32, on GPUs that have it.
_C.TRAIN.TF32 = True
# Clips that a rank feeds to the network at once, adding up gradients to the whole batch: 0 (all of its share of the
# batch), a number, or auto (the most that fit into the GPU's memory).
_C.TRAIN.MICRO_BATCH = 0
# Compile the network with torch.compile: minutes at the start, faster steps after that.
_C.TRAIN.COMPILE = False
# Record the kernels of the compiled network once and replay them (CUDA graphs), on one GPU: for small networks, whose
# kernels take less time than their launches.
_C.TRAIN.CUDA_GRAPHS = False
# Split weights, gradients, optimizer moments and average among the ranks instead of keeping a copy on each (FSDP2): for
# networks that do not fit into a GPU's memory. Checkpoints are the same.
_C.TRAIN.SHARD = False
# Keep clips and convolution weights with the channels innermost (channels_last_3d), in tests too: faster for some
# networks.
_C.TRAIN.CHANNELS_LAST = False
# Stop after so many steps in a row whose loss or gradient is not finite; each of them is skipped.
_C.TRAIN.MAX_NONFINITE_STEPS = 20
# Keep a moving average of the weights (EMA), which is validated and saved beside them.
_C.TRAIN.EMA = False
# Share of the average that a step keeps, and whether it grows up to that from 0 over the first steps.
_C.TRAIN.EMA_DECAY = 0.9999
_C.TRAIN.EMA_WARMUP = False
# Where the average is kept: cpu, or empty for beside the network.
_C.TRAIN.EMA_DEVICE = ""

# ---------------------------------------------------------------------------------------------------------------------
_C.TEST = CfgNode()
# Run the test (after training, if that is enabled too).
_C.TEST.ENABLE = True
# Data set, see TRAIN.DATASET.
_C.TEST.DATASET = "kinetics"
# Views per machine and step.
_C.TEST.BATCH_SIZE = 8
# Weights to test; empty means what training left in OUTPUT_DIR (see CHECKPOINT).
_C.TEST.CHECKPOINT_FILE_PATH = ""
# Which of OUTPUT_DIR's checkpoints to test: best (by validation top-1, that of the average with TRAIN.EMA) or last.
_C.TEST.CHECKPOINT = "last"
# Which weights of the checkpoint to test: model, or ema (their average, kept with TRAIN.EMA).
_C.TEST.WEIGHTS = "model"
# Arithmetic of the network: fp32, bf16 or fp16 (GPUs only); scores are summed in float64 (validation: TRAIN.PRECISION).
_C.TEST.PRECISION = "fp32"
# Let float32 products and convolutions of the test round their inputs to TF32, on GPUs that have it.
_C.TEST.TF32 = True
# Clips per video, spread over time; -1 (SlowFast) means 10, with 1, 3, 5 and 7 in VIEW_SWEEP.
_C.TEST.NUM_ENSEMBLE_VIEWS = 10
# Crops per clip, spread along the long side: 1 (see SINGLE_CROP) or 3.
_C.TEST.NUM_SPATIAL_CROPS = 3
# Where a single test crop lies: centre, or left (top of a tall frame), as the published segment loaders have it.
_C.TEST.SINGLE_CROP = "centre"
# More numbers of views to evaluate in the same pass, as [clips, crops]: [[1, 1], [4, 1], [10, 3]].
_C.TEST.VIEW_SWEEP = []
# What is summed over the views: logits, softmax, or sigmoid (for several labels per video).
_C.TEST.SCORES = "softmax"
# The k of the top-k accuracies, never more than the class count.
_C.TEST.TOP_K = [1, 5]
# Permute the frames of every clip: what is left of the accuracy needs no time.
_C.TEST.SHUFFLE_FRAMES = False
# Unreadable videos that a test may have and still exit with status 0.
_C.TEST.ALLOW_FAILED = 0

# ---------------------------------------------------------------------------------------------------------------------
_C.SOLVER = CfgNode()
# Optimizer: sgd, adam, adamw (mt_adamw is the same) or rmsprop.
_C.SOLVER.OPTIMIZING_METHOD = "adamw"
# Peak learning rate (per machine with BASE_LR_SCALE_NUM_SHARDS).
_C.SOLVER.BASE_LR = 0.1
# Multiply BASE_LR, WARMUP_START_LR and COSINE_END_LR by NUM_SHARDS.
_C.SOLVER.BASE_LR_SCALE_NUM_SHARDS = False
# Number of machines to take for that; 0 means NUM_SHARDS. A run that goes on with another number keeps the first one.
_C.SOLVER.BASE_LR_NUM_SHARDS = 0
# cosine or steps_with_relative_lrs.
_C.SOLVER.LR_POLICY = "cosine"
# Learning rate at the end of the cosine.
_C.SOLVER.COSINE_END_LR = 0.0
# Start the cosine at the end of the warm-up (otherwise at epoch 0, and the warm-up joins it).
_C.SOLVER.COSINE_AFTER_WARMUP = False
# Epochs where the factor on BASE_LR changes (beginning with 0), and those factors.
_C.SOLVER.STEPS = []
_C.SOLVER.LRS = []
# Training epochs.
_C.SOLVER.MAX_EPOCH = 300
# Length of the linear warm-up in epochs, and its first learning rate.
_C.SOLVER.WARMUP_EPOCHS = 0.0
_C.SOLVER.WARMUP_START_LR = 0.01
# Momentum of sgd and rmsprop, dampening and Nesterov momentum of sgd.
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.DAMPENING = 0.0
_C.SOLVER.NESTEROV = True
# Betas of adam and adamw.
_C.SOLVER.BETAS = [0.9, 0.999]
# Share of the mean of squared gradients that a step of rmsprop keeps, and what is added to it under the root.
_C.SOLVER.RMSPROP_RHO = 0.9
_C.SOLVER.RMSPROP_EPSILON = 1.0
# Weight decay.
_C.SOLVER.WEIGHT_DECAY = 1e-4
# No weight decay for one-dimensional parameters (norm scales, biases).
_C.SOLVER.ZERO_WD_1D_PARAM = False
# Which parameters a network names as better not decayed (positions, class token) are exempt: published (only in the
# families whose published training heeds the list: MViT) or always.
_C.SOLVER.NO_WEIGHT_DECAY = "published"
# Factor on the learning rate from layer to layer, counted back from the classifier; 1 means the same rate everywhere.
_C.SOLVER.LAYER_DECAY = 1.0
# Leading layers that are not trained; -1 trains the classifier alone.
_C.SOLVER.FREEZE_LAYERS = 0
# Clip every entry of the gradients to this size (the norm is then left alone); None means no clipping.
_C.SOLVER.CLIP_GRAD_VAL = None
# Label smoothing of cross_entropy: the share of the target spread over all classes (MIXUP has its own).
_C.SOLVER.SMOOTHING = 0.0
# Clip the total gradient norm; None means no clipping.
_C.SOLVER.CLIP_GRAD_L2NORM = None

# ---------------------------------------------------------------------------------------------------------------------
_C.BN = CfgNode()
# Weight decay of batch-norm parameters.
_C.BN.WEIGHT_DECAY = 0.0
# batchnorm, or sync_batchnorm: normalise over the clips of several ranks.
_C.BN.NORM_TYPE = "batchnorm"
# Neighbouring ranks that share their statistics in sync_batchnorm; 0 means all.
_C.BN.NUM_SYNC_DEVICES = 0
# Recompute the statistics of batch norms over NUM_BATCHES_PRECISE training batches before validations and checkpoints.
_C.BN.USE_PRECISE_STATS = False
_C.BN.NUM_BATCHES_PRECISE = 200

# ---------------------------------------------------------------------------------------------------------------------
_C.TENSORBOARD = CfgNode()
# Write TensorBoard events to OUTPUT_DIR/tensorboard.
_C.TENSORBOARD.ENABLE = True
# Write histograms of the weights after every epoch.
_C.TENSORBOARD.HISTOGRAMS = False
