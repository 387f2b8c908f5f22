/* Depth as the colour camera sees it: triangles between neighbouring pixels, the nearest wins. */
#include "fake.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct { object_t object; calibration_t calibration; double *rays; } transformation_t;
typedef struct { double u, v, z; } corner_t;

static void bend(const lens_t *lens, double x, double y, double *u, double *v) {
    double r = x * x + y * y;
    double radial = (1 + r * (lens->k1 + r * (lens->k2 + r * lens->k3))) /
                    (1 + r * (lens->k4 + r * (lens->k5 + r * lens->k6)));
    *u = x * radial + 2 * lens->p1 * x * y + lens->p2 * (r + 2 * x * x);
    *v = y * radial + lens->p1 * (r + 2 * y * y) + 2 * lens->p2 * x * y;
}

static void straighten(const lens_t *lens, double u, double v, double *x, double *y) {
    *x = u, *y = v;
    for (int i = 0; i < 30; i++) {
        double a, b;
        bend(lens, *x, *y, &a, &b);
        *x += u - a, *y += v - b;
    }
}

transformation_t *k4a_transformation_create(const calibration_t *calibration) {
    if (calibration->colour.width <= 0 || calibration->colour.lens.fx <= 0)
        return NULL;
    transformation_t *t = fake_new(TRANSFORMATION, sizeof *t);
    t->calibration = *calibration;
    const camera_t *depth = &t->calibration.depth;
    t->rays = malloc(sizeof(double) * 2 * depth->width * depth->height);
    for (int i = 0; i < depth->width * depth->height; i++)
        straighten(&depth->lens, (i % depth->width - depth->lens.cx) / depth->lens.fx,
                   (i / depth->width - depth->lens.cy) / depth->lens.fy, &t->rays[2 * i], &t->rays[2 * i + 1]);
    return t;
}

void k4a_transformation_destroy(transformation_t *t) {
    if (fake_drop(t, TRANSFORMATION))
        free(t->rays);
}

static corner_t corner(const transformation_t *t, int index, double z) {
    const extrinsics_t *e = &t->calibration.extrinsics[0][1];
    const lens_t *lens = &t->calibration.colour.lens;
    double p[3] = {t->rays[2 * index] * z, t->rays[2 * index + 1] * z, z}, q[3];
    for (int i = 0; i < 3; i++)
        q[i] = e->rotation[3 * i] * p[0] + e->rotation[3 * i + 1] * p[1] + e->rotation[3 * i + 2] * p[2] +
               e->translation[i];
    corner_t c;
    bend(lens, q[0] / q[2], q[1] / q[2], &c.u, &c.v);
    c.u = c.u * lens->fx + lens->cx, c.v = c.v * lens->fy + lens->cy, c.z = q[2];
    return c;
}

static void triangle(const corner_t *a, const corner_t *b, const corner_t *c, const camera_t *camera, uint16_t *out) {
    double area = (b->u - a->u) * (c->v - a->v) - (c->u - a->u) * (b->v - a->v);
    if (fabs(area) < 1e-12)
        return;
    int left = fmax(0, ceil(fmin(a->u, fmin(b->u, c->u)))), top = fmax(0, ceil(fmin(a->v, fmin(b->v, c->v))));
    int right = fmin(camera->width - 1, floor(fmax(a->u, fmax(b->u, c->u))));
    int bottom = fmin(camera->height - 1, floor(fmax(a->v, fmax(b->v, c->v))));
    for (int y = top; y <= bottom; y++)
        for (int x = left; x <= right; x++) {
            double m = ((x - a->u) * (c->v - a->v) - (c->u - a->u) * (y - a->v)) / area;
            double n = ((b->u - a->u) * (y - a->v) - (x - a->u) * (b->v - a->v)) / area;
            if (m < -1e-9 || n < -1e-9 || m + n > 1 + 1e-9)
                continue;
            double z = 1 / ((1 - m - n) / a->z + m / b->z + n / c->z); /* a plane's 1/z is linear in the image */
            uint16_t *pixel = &out[y * camera->width + x];
            if (!*pixel || z < *pixel)
                *pixel = (uint16_t)lround(z);
        }
}

int k4a_transformation_depth_image_to_color_camera(transformation_t *t, const image_t *from, image_t *to) {
    if (!fake_check(t, TRANSFORMATION) || !fake_check(from, IMAGE) || !fake_check(to, IMAGE))
        return FAILED;
    const camera_t *depth = &t->calibration.depth, *colour = &t->calibration.colour;
    if (to->width != colour->width || to->height != colour->height || from->width != depth->width)
        return FAILED;
    memset(to->buffer, 0, to->size);
    const uint16_t *values = (const uint16_t *)from->buffer;
    for (int v = 0; v + 1 < depth->height; v++)
        for (int u = 0; u + 1 < depth->width; u++) {
            int at[4], least = 65535, most = 0;
            for (int k = 0; k < 4; k++) {
                at[k] = (v + k / 2) * depth->width + u + k % 2;
                least = values[at[k]] < least ? values[at[k]] : least;
                most = values[at[k]] > most ? values[at[k]] : most;
            }
            if (!least || most - least > 0.03 * least) /* a hole, or an edge */
                continue;
            corner_t c[4];
            for (int k = 0; k < 4; k++)
                c[k] = corner(t, at[k], values[at[k]]);
            triangle(&c[0], &c[1], &c[2], colour, (uint16_t *)to->buffer);
            triangle(&c[1], &c[3], &c[2], colour, (uint16_t *)to->buffer);
        }
    return SUCCEEDED;
}
