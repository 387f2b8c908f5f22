"""Which of MediaPipe's 468 face mesh points stand for the 68 points."""

FACE_68 = (
    127, 234, 93, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 323, 454, 356,  # jaw, from the person's right
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,  # brows
    168, 197, 5, 4, 98, 97, 2, 326, 327,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 40, 37, 0, 267, 270, 291, 321, 405, 17, 181, 91,  # outer lips
    78, 81, 13, 311, 308, 402, 14, 178,  # inner lips
)  # fmt: skip
"""[68] mesh indices. The order is that of Sagonas et al., "300 Faces in-the-Wild", 2013 (dlib's); the mesh is that of
MediaPipe's `face_geometry/data/canonical_face_model_uv_visualization.png`. Jaw, brows, eyes and nose follow P. Yan's
table (github.com/PeizhiYan/Mediapipe_2_Dlib_Landmarks, 2024) with one mesh point each and both sides alike; the points
of the lips are those spaced most evenly along the mesh's lip lines."""

EYE_CORNERS = (33, 263)
"""The outer corners of the right and left eye in the mesh."""

EYE_CORNERS_M = 0.0889
"""Metres between them in MediaPipe's canonical face model (±4.446 cm in canonical_face_model.obj)."""
