"""Slow tests that show for further values what another one shows: left out where CI is set, which has forty minutes.

`pytest -m slow` runs them all.
"""

from __future__ import annotations

REPEATS = (
    "cli/test_streams.py::test_streams_that_take_nothing[2>&-]",
    "cli/test_streams.py::test_streams_that_take_nothing[>&- 2>&-]",
    "cluster/test_connection.py::test_after_training_the_output_of_the_callers_tasks_is_printed_again",
    "cluster/test_connection.py::test_the_driver_holds_no_copy_of_the_rows_beside_the_shared_one",
    "cluster/test_connection.py::test_training_works_with_a_closed_standard_stream[2>&-]",
    "cluster/test_network_faults.py::test_a_network_that_fails_does_not_change_the_answer[its workers are stopped]",
    "cluster/test_network_faults.py::test_a_network_that_fails_does_not_change_the_answer[it is unplugged]",
    "cluster/test_network_faults.py::test_a_network_that_fails_does_not_change_the_answer[nothing from it reaches",
    "cluster/test_nodes.py::test_one_answer_on_any_number_of_nodes[1 nodes]",
    "cluster/test_nodes.py::test_one_answer_on_any_number_of_nodes[2 nodes]",
    "cluster/test_nodes.py::test_the_loss_of_a_node_does_not_change_the_answer[all is killed]",
    "cluster/test_nodes.py::test_the_loss_of_a_node_does_not_change_the_answer[its workers are killed]",
    "cluster/test_one_hash.py::test_a_killed_worker_and_a_killed_driver_change_nothing[adamw, elu, squared]",
    "cluster/test_one_hash.py::test_any_number_of_workers_gives_one_hash[adamw, elu, squared]",
    "cluster/test_one_hash.py::test_any_number_of_workers_gives_one_hash[nesterov, gelu, hinge]",
    "cluster/test_same_bits.py::test_a_killed_driver_and_another_killed_driver",
    "cluster/test_same_bits.py::test_any_number_of_workers[AdaGrad, no hidden layer]",
    "cluster/test_same_bits.py::test_any_number_of_workers[clipped, a warm-up, all rows in each batch]",
    "cluster/test_same_bits.py::test_any_number_of_workers[replacement, momentum, no normalisation, five shards]",
    "cluster/test_same_bits.py::test_stopped_at_a_random_step_and_resumed[2-130]",
    "comm/test_aggregator.py::test_a_nodes_only_worker_is_connected_directly_with_the_same_bits[by the object store]",
    "comm/test_aggregator.py::test_two_workers_on_another_node_are_reached_by_an_aggregator_with_the_same_bits[in",
    "comm/test_aggregator.py::test_without_a_free_port_ray_calls_are_used_and_a_line_says_so[4]",
    "estimators/test_estimator_classifier.py::test_three_workers_and_held_out_rows_give_the_same_bits[sgd]",
    "run/test_end_to_end.py::test_a_progress_bar_on_a_terminal[20-]",
    "run/test_end_to_end.py::test_no_steps_write_the_initial_weights[train.epochs-on Ray]",
    "run/test_leftovers.py::test_after_a_signal_while_ray_starts[2-130-Ctrl-C]",
    "run/test_leftovers.py::test_after_a_terminal_was_closed",
    "run/test_leftovers.py::test_after_an_error",
    "run/test_leftovers.py::test_after_ctrl_c_on_a_terminal",
    "run/test_losses.py::test_any_number_of_workers_gives_the_same_weights_and_figures[hinge]",
    "run/test_losses.py::test_any_number_of_workers_gives_the_same_weights_and_figures[smoothed]",
    "run/test_recovery.py::test_a_server_that_is_not_replaced_any_more_ends_the_run_and_it_can_be_resumed",
    "run/test_recovery.py::test_a_signal_in_a_validation_ends_it_and_resuming_begins_with_it[the last one]",
    "run/test_recovery.py::test_a_stopped_worker_is_named_within_15_seconds_and_replaced[1]",
    "run/test_recovery.py::test_steps_with_bad_numbers_are_skipped_if_that_is_asked_for",
    "test_benchmarks.py::test_a_contestant_measures[ddp]",
    "test_benchmarks.py::test_a_contestant_measures[distsgd]",
    "test_benchmarks.py::test_a_contestant_measures[ray]",
    "test_chaos.py::test_named_faults[a stopped worker, and the server killed while it is waited for]",
    "test_chaos.py::test_named_faults[a worker killed in a step, another in validation]",
    "test_learning_rate_page.py::test_a_run_gives_the_numbers_of_its_row[learning-rate-",
    "tracking/test_pages.py::test_ui_prints_the_link_to_the_run_and_leaves_no_process[15]",
    "tracking/test_pages.py::test_ui_prints_the_link_to_the_run_and_leaves_no_process[9]",
    "tracking/test_tracking.py::test_a_driver_killed_while_it_talks_to_mlflow_leaves_no_gap_and_no_double_point[before]",
    "tracking/test_tracking.py::test_a_driver_killed_while_it_talks_to_mlflow_leaves_no_gap_and_no_double_point[created]",
    "tracking/test_tracking_model.py::test_a_list_column",
    "tracking/test_tracking_secrets.py::test_a_run_whose_store_is_away_keeps_the_secret[http://{secret}@",
    "tracking/test_tracking_secrets.py::test_a_run_whose_store_is_away_keeps_the_secret[http://127.0.0.1",
    "tracking/test_tracking_secrets.py::test_a_run_whose_store_is_away_keeps_the_secret[postgresql://127.0.0.1",
    "tracking/test_tracking_server.py::test_a_stalled_server_is_not_waited_for_when_its_requests_time_out",
    "tracking/test_tracking_server.py::test_a_stopped_run_does_not_wait_for_mlflow_until_it_is_killed",
    "tracking/test_tracking_server.py::test_lost_replies_make_no_second_run_and_no_second_point[experiments-create-1]",
    "tracking/test_tracking_server.py::test_lost_replies_make_no_second_run_and_no_second_point[logged-models-2]",
    "tracking/test_tracking_server.py::test_lost_replies_make_no_second_run_and_no_second_point[runs-create-1]",
)
"""Beginnings of the tests' names, below tests/."""


def is_repeat(name: str) -> bool:
    """Return whether a test, by its pytest node ID, is one of them."""
    return name.removeprefix("tests/").startswith(REPEATS)
