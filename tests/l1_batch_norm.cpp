// L1 batch norm in C++, judged by lpnorm: the worked example of "vectors for every language".
//
//   lpnorm vectors DIR --layer batch_norm --p 1 --dtype float32
//   g++ -std=c++17 -O2 -o l1 l1_batch_norm.cpp && ./l1 DIR
//   lpnorm check DIR
//
// Per channel, n values x:  d = x - mean(x),  s = C mean|d| + eps,  x_hat = d / s,
//   y = gamma x_hat + beta,
//   dx = (g - mean(g) - T (h - mean(h))) / s,  g = gamma dy,  T = sum(g x_hat),  h = C sign(d) / n.
//
// -DMISTAKE=1 forgets -mean(h), 2 the Gaussian constant C, 3 gamma in dx, 4 takes sign(0) as 3.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#ifndef MISTAKE
#define MISTAKE 0
#endif

// ---- .npy, version 1.0, float32, little-endian, C order: a header and the numbers -------------

std::vector<float> read_npy(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    char start[10];
    if (!in.read(start, 10) || std::memcmp(start, "\x93NUMPY\x01", 7) != 0)
        throw std::runtime_error("not a .npy file of version 1.0: " + path);
    std::string header(std::uint8_t(start[8]) + 256 * std::uint8_t(start[9]), ' ');
    in.read(&header[0], header.size());
    if (header.find("'<f4'") == std::string::npos)
        throw std::runtime_error("not float32: " + path);
    std::vector<float> values;
    for (float value; in.read(reinterpret_cast<char*>(&value), 4);) values.push_back(value);
    return values;
}

void write_npy(const std::string& path, const std::vector<float>& values, const std::string& shape) {
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + shape + ",), }";
    header += std::string(63 - (10 + header.size()) % 64, ' ') + "\n";
    std::ofstream out(path, std::ios::binary);
    out.write("\x93NUMPY\x01\x00", 8);
    out.put(char(header.size() % 256)).put(char(header.size() / 256));
    out << header;
    out.write(reinterpret_cast<const char*>(values.data()), 4 * values.size());
    if (!out) throw std::runtime_error("cannot write " + path);
}

// ---- the layer --------------------------------------------------------------------------------

float sign(float v) {
    if (v == 0) return MISTAKE == 4 ? 3 : 0;
    return v > 0 ? 1 : -1;
}

struct Result {
    std::vector<float> y, dx, dgamma, dbeta;
};

// x and dy lie as (outer, channels, inner)
Result l1_batch_norm(const std::vector<float>& x, const std::vector<float>& gamma,
                     const std::vector<float>& beta, const std::vector<float>& dy, float eps,
                     float constant, size_t outer, size_t channels, size_t inner) {
    const size_t n = outer * inner;
    const float C = MISTAKE == 2 ? 1 : constant;
    Result r{x, x, gamma, beta};
    for (size_t c = 0; c < channels; ++c) {
        auto at = [&](size_t i) { return (i / inner * channels + c) * inner + i % inner; };
        float mean = 0, deviation = 0, T = 0, mean_g = 0, mean_h = 0;
        for (size_t i = 0; i < n; ++i) mean += x[at(i)] / n;
        for (size_t i = 0; i < n; ++i) deviation += std::fabs(x[at(i)] - mean) / n;
        const float s = C * deviation + eps;

        r.dgamma[c] = r.dbeta[c] = 0;
        for (size_t i = 0; i < n; ++i) {
            const float d = x[at(i)] - mean, x_hat = d / s, g = gamma[c] * dy[at(i)];
            r.y[at(i)] = gamma[c] * x_hat + beta[c];
            r.dgamma[c] += dy[at(i)] * x_hat;
            r.dbeta[c] += dy[at(i)];
            T += g * x_hat;
            mean_g += g / n;
            mean_h += sign(d) / n;
        }
        if (MISTAKE == 1) mean_h = 0;
        for (size_t i = 0; i < n; ++i) {
            const float d = x[at(i)] - mean, g = gamma[c] * dy[at(i)];
            r.dx[at(i)] = (g - mean_g - C * T / n * (sign(d) - mean_h)) / s;
            if (MISTAKE == 3) r.dx[at(i)] /= gamma[c];
        }
    }
    return r;
}

// ---- every case of cases.txt ------------------------------------------------------------------

int main(int count, char** arguments) {
    if (count != 2) {
        std::cerr << "usage: " << arguments[0] << " DIR\n";
        return 2;
    }
    const std::string folder = std::string(arguments[1]) + "/";
    std::ifstream cases(folder + "cases.txt");
    int done = 0;
    for (std::string line; std::getline(cases, line);) {
        std::istringstream columns(line);
        std::string id, layer, p, dtype, place, axis, shape;
        double constant, eps;
        columns >> id >> layer >> p >> dtype >> constant >> eps >> place >> axis >> shape;
        if (layer != "batch_norm" || p != "1" || dtype != "float32") continue;

        size_t part[3] = {1, 1, 1};  // outer, channels (on axis 1), inner
        std::istringstream sizes(shape);
        std::string size;
        for (int i = 0; std::getline(sizes, size, ','); ++i) part[i < 2 ? i : 2] *= std::stoul(size);

        const std::string start = folder + id + ".";
        const Result r = l1_batch_norm(read_npy(start + "x.npy"), read_npy(start + "gamma.npy"),
                                       read_npy(start + "beta.npy"), read_npy(start + "dy.npy"),
                                       float(eps), float(constant), part[0], part[1], part[2]);
        write_npy(start + "y.out.npy", r.y, shape);
        write_npy(start + "dx.out.npy", r.dx, shape);
        write_npy(start + "dgamma.out.npy", r.dgamma, std::to_string(part[1]));
        write_npy(start + "dbeta.out.npy", r.dbeta, std::to_string(part[1]));
        ++done;
    }
    std::cout << done << " cases\n";
    return done ? 0 : 1;
}
