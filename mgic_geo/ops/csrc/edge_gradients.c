/* Weights of edges in first derivatives, and the sparse matrices made of them. */

#include <math.h>

#include "entry.h"
#include "kernels.h"

/* pos: (nodes, 3); source, target: (edges); cloud: (nodes), below `nodes`; value: (edges, 3), the
 * weights; lengths: (edges); sums: (3, nodes), zero: the lengths and the number of the edges of
 * every cloud, and the number of those that end at every node, no edges of length 0 among them. */
ENTRY mgic_edge_gradients(FLOATS(pos), INTS(source), INTS(target), INTS(cloud), double softening,
                          OUT_FLOATS(value), OUT_FLOATS(lengths), OUT_DOUBLES(sums), int threads)
{
    const int64_t nodes = cloud_length, edges = source_length;
    HOLDS(pos, times(nodes, 3));
    HOLDS(target, edges);
    HOLDS(value, times(edges, 3));
    HOLDS(lengths, edges);
    HOLDS(sums, times(nodes, 3));
    NODES_WITHIN(source, edges, 0, nodes);
    NODES_WITHIN(target, edges, 0, nodes);
    NODES_WITHIN(cloud, nodes, 0, nodes);
    double *total = sums, *count = total + nodes, *degree = count + nodes;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t e = 0; e < edges; e++) {
        const float *from = pos + 3 * source[e], *to = pos + 3 * target[e];
        float *unit = value + 3 * e, largest = 0, square = 0;
        for (int a = 0; a < 3; a++) {
            unit[a] = from[a] - to[a];
            if (!(fabsf(unit[a]) <= largest)) /* where it is not a number, too */
                largest = fabsf(unit[a]);
        }
        for (int a = 0; a < 3 && largest > 0; a++)
            unit[a] /= largest;
        for (int a = 0; a < 3; a++)
            square += unit[a] * unit[a];
        lengths[e] = largest * sqrtf(square);
    }
    for (int64_t e = 0; e < edges;) { /* one after the other: the order of sums is fixed */
        const int64_t node = target[e];
        double sum = 0, real = 0;
        for (; e < edges && target[e] == node; e++) {
            sum += lengths[e];
            real += lengths[e] > 0;
        }
        total[cloud[node]] += sum;
        count[cloud[node]] += real;
        degree[node] += real;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t e = 0; e < edges; e++) {
        float *unit = value + 3 * e, square = 0;
        const int64_t node = target[e], its = cloud[node];
        for (int a = 0; a < 3; a++)
            square += unit[a] * unit[a];
        const float length = lengths[e], largest = length > 0 ? length / sqrtf(square) : 1;
        const float scale = total[its] / (count[its] > 1 ? count[its] : 1) / largest;
        const float damping = softening * scale, all = square + damping * damping;
        const float weight = scale / (all < 1 ? 1 : all) / (degree[node] > 1 ? degree[node] : 1);
        for (int a = 0; a < 3; a++)
            unit[a] *= length > 0 ? weight : 0 * weight;
    }
    return NULL;
}

/* The transpose of a matrix with `nodes` rows and columns, its entries in the order of their rows:
 * ptr, ptr_t: (nodes + 1); index, index_t: (entries); value, value_t: (entries, 3). */
static void transpose(const int64_t *ptr, const int64_t *index, const float *value, int64_t nodes,
                      int64_t *ptr_t, int64_t *index_t, float *value_t)
{
    memset(ptr_t, 0, (nodes + 1) * sizeof(int64_t));
    for (int64_t e = 0; e < ptr[nodes]; e++)
        ptr_t[index[e] + 1]++;
    for (int64_t node = 0; node < nodes; node++)
        ptr_t[node + 1] += ptr_t[node];
    for (int64_t node = 0; node < nodes; node++)
        for (int64_t e = ptr[node]; e < ptr[node + 1]; e++) {
            const int64_t place = ptr_t[index[e]]++; /* where the next row ends up to start */
            index_t[place] = node;
            memcpy(value_t + 3 * place, value + 3 * e, 3 * sizeof(float));
        }
    memmove(ptr_t + 1, ptr_t, nodes * sizeof(int64_t));
    ptr_t[0] = 0;
}

/* How many entries join nodes before each one with it or later ones, (nodes + 1). */
static void count_crossings(const int64_t *ptr, const int64_t *index, int64_t nodes,
                            int64_t *crossings)
{
    memset(crossings, 0, (nodes + 1) * sizeof(int64_t));
    for (int64_t node = 0; node < nodes; node++)
        for (int64_t e = ptr[node]; e < ptr[node + 1]; e++) {
            const int64_t first = index[e] < node ? index[e] : node;
            const int64_t last = index[e] < node ? node : index[e];
            crossings[first + 1]++;
            if (last < nodes)
                crossings[last + 1]--;
        }
    for (int64_t node = 0; node < nodes; node++)
        crossings[node + 1] += crossings[node];
}

/* A graph, ptr, (nodes + 1), and index, (edges), with weights edge_value, (edges, 3), and every
 * node's own weights, minus the sum of the others, as one more edge: see `transpose` and
 * `count_crossings` for the results. */
ENTRY mgic_derivative_operators(INTS(ptr), INTS(index), FLOATS(edge_value), OUT_INTS(all_ptr),
                                OUT_INTS(all_index), OUT_FLOATS(value), OUT_INTS(ptr_t),
                                OUT_INTS(index_t), OUT_FLOATS(value_t), OUT_INTS(crossings),
                                int threads)
{
    const int64_t nodes = ptr_length - 1, edges = index_length;
    TRY(check_starts("ptr", ptr, nodes + 1, edges));
    CHECK(ptr[nodes] == edges, "ptr must end with the number of edges, %lld, got %lld",
          (long long)edges, (long long)ptr[nodes]);
    NODES_WITHIN(index, edges, 0, nodes);
    HOLDS(edge_value, times(edges, 3));
    HOLDS(all_ptr, nodes + 1);
    HOLDS(all_index, edges + nodes);
    HOLDS(value, times(edges + nodes, 3));
    HOLDS(ptr_t, nodes + 1);
    HOLDS(index_t, edges + nodes);
    HOLDS(value_t, times(edges + nodes, 3));
    HOLDS(crossings, nodes + 1);
    for (int64_t node = 0; node <= nodes; node++)
        all_ptr[node] = ptr[node] + node;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t node = 0; node < nodes; node++) {
        float *own = value + 3 * (all_ptr[node + 1] - 1);
        memset(own, 0, 3 * sizeof(float));
        for (int64_t e = ptr[node]; e < ptr[node + 1]; e++) {
            /* a loop derives nothing; its weight and the node's own would only nearly cancel */
            const float counts = index[e] != node;
            all_index[e + node] = index[e];
            for (int a = 0; a < 3; a++)
                own[a] -= value[3 * (e + node) + a] = counts * edge_value[3 * e + a];
        }
        all_index[all_ptr[node + 1] - 1] = node;
    }
#pragma omp parallel sections num_threads(threads)
    {
#pragma omp section
        transpose(all_ptr, all_index, value, nodes, ptr_t, index_t, value_t);
#pragma omp section
        count_crossings(ptr, index, nodes, crossings);
    }
    return NULL;
}
