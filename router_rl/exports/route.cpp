// Routes rows with an AOTInductor package: numbers on stdin, one line per row on stdout.
//
//   ROOT=$(python -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parent)')
//   g++ -std=c++20 route.cpp -o route -I$ROOT/include -L$ROOT/lib -Wl,-rpath,$ROOT/lib \
//       -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10
//   echo "0.1 0.2 0.3 0.4" | ./route router.pt2 4        # 4 features per row
//   echo "0.1 0.2 0.3 0.4" | ./route router.pt2 4 1 0 1  # the second of three experts is masked
//
// A router with state takes it as its second input, [T, S]: add it to `inputs` after the features.

#include <cstdlib>
#include <iostream>
#include <iterator>
#include <vector>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/ones.h>

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: route PACKAGE FEATURES [ALIVE ...] < numbers\n";
    return 2;
  }
  const int64_t features = std::atoll(argv[2]);
  const int64_t experts = argc - 3;
  torch::inductor::AOTIModelPackageLoader router(argv[1], experts > 0 ? "masked" : "model");

  std::vector<float> numbers;
  for (std::string word; std::cin >> word;) numbers.push_back(std::strtof(word.c_str(), nullptr));
  const int64_t rows = static_cast<int64_t>(numbers.size()) / features;
  std::vector<at::Tensor> inputs{at::from_blob(numbers.data(), {rows, features}, at::kFloat)};
  if (experts > 0) {
    at::Tensor alive = at::ones({experts}, at::kBool);
    for (int64_t expert = 0; expert < experts; ++expert) {
      alive.data_ptr<bool>()[expert] = std::atoi(argv[3 + expert]) != 0;
    }
    inputs.push_back(alive);
  }

  const std::vector<at::Tensor> outputs = router.run(inputs);  // experts, weights, logits, fallback
  // The outputs can have any strides.
  const at::Tensor chosen = outputs[0].contiguous(), weights = outputs[1].contiguous();
  const at::Tensor fallback = outputs[3].contiguous();
  const int64_t k = chosen.size(1);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t place = row * k; place < (row + 1) * k; ++place) {
      std::cout << chosen.data_ptr<int64_t>()[place] << ' ' << weights.data_ptr<float>()[place] << ' ';
    }
    std::cout << (fallback.data_ptr<bool>()[row] ? "fallback" : "") << '\n';
  }
  return 0;
}
